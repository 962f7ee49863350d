"""The published APTS in one process: solvers, presets, the window, state, the listed defects."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench_apts.core.errors import UserError
from bench_apts.optimizers.apts import APTS
from bench_apts.optimizers.apts.acceptance import PaperSettings, paper_settings
from bench_apts.optimizers.apts.local_steps import FirstOrder, TRAdam, make, minimise
from bench_apts.optimizers.presets import PRESETS, SOLVERS
from bench_apts.plugins import registry

NORMS = ("l2", "linf")


class Network:
    """A small network on a new random minibatch in each step."""

    def __init__(self, same_batch=False, dtype=torch.float64, **settings):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
        self.batches = torch.Generator().manual_seed(1)
        self.same_batch, self.dtype = same_batch, dtype
        self.optimizer = APTS(self.model.parameters(), **{"radius": 0.1} | settings)
        self.calls = []

    def draw(self):
        seed = 1 if self.same_batch else int(torch.randint(1000, (), generator=self.batches))
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(32, 5, generator=generator, dtype=self.dtype)
        self.targets = (self.inputs[:, 0] > 0).long() + (self.inputs[:, 1] > 0).long()

    def closure(self, backward):
        self.calls.append(backward)
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        if backward:
            loss.backward()
        return loss.detach()

    def step(self):
        self.calls.clear()
        self.draw()
        return self.optimizer.step(self.closure)

    def values(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


BOTH = [(solver, solver) for solver in SOLVERS] + [("first-order", "l-sr1")]


# --- every solver -------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "global_solver"), BOTH)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("iterations", [0, 5])
def test_every_solver_learns_and_never_lets_the_loss_rise(
        solver, global_solver, norm, iterations):
    net = Network(same_batch=True, norm=norm, solver=solver, global_solver=global_solver,
                  local_iterations=iterations, radius=0.05)
    losses = []
    for _ in range(40):
        before, radius = net.values(), net.optimizer.radius
        losses.append(net.step().item())
        order = 2 if norm == "l2" else math.inf
        moved = torch.linalg.vector_norm(net.values() - before, order)
        # At most one step of the local phase and one, maybe twice as long, of the global pass.
        assert moved <= 3 * radius * (1 + 1e-9)
        assert 1e-3 <= net.optimizer.radius <= 4.0
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(("solver", "global_solver"), BOTH)
@pytest.mark.parametrize("global_pass", [True, False])
@pytest.mark.parametrize("iterations", [1, 3])
def test_every_solver_costs_the_passes_of_the_table(
        solver, global_solver, global_pass, iterations):
    net = Network(solver=solver, global_solver=global_solver, global_pass=global_pass,
                  local_iterations=iterations)
    for _ in range(4):
        net.step()
        forwards, backwards = (3, 1) if global_pass else (2, 0)
        expected = iterations + forwards, iterations + backwards
        assert (len(net.calls), sum(net.calls)) == expected


@pytest.mark.parametrize(("solver", "backwards"),
                         [("first-order", 1), ("tr-adam", 1), ("l-sr1", 2)])
def test_without_a_local_phase_l_sr1_costs_one_backward_pass_more(solver, backwards):
    net = Network(local_iterations=0, global_solver=solver)
    net.step()
    assert (len(net.calls), sum(net.calls)) == (2, backwards)


@pytest.mark.parametrize(("solver", "global_solver"), BOTH)
@pytest.mark.parametrize("window", [1, 4])
def test_a_saved_state_continues_bit_for_bit(solver, global_solver, window):
    settings = {"solver": solver, "global_solver": global_solver, "window": window, "memory": 3}
    straight, saved = Network(**settings), Network(**settings)
    for _ in range(4):
        straight.step()
        saved.step()
    file = io.BytesIO()
    torch.save([saved.model.state_dict(), saved.optimizer.state_dict()], file)
    file.seek(0)
    resumed = Network(**settings, min_radius=1e-4)
    model, optimizer = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.batches.set_state(saved.batches.get_state())
    for _ in range(6):
        assert straight.step() == resumed.step()
    assert torch.equal(straight.values(), resumed.values())
    assert straight.optimizer.last == resumed.optimizer.last


def test_bfloat16_models_keep_their_curvature_in_single_precision():
    net = Network(dtype=torch.bfloat16, solver="l-sr1", global_solver="l-sr1")
    for _ in range(5):
        net.step()
    assert net.optimizer._method._local._rows.dtype == torch.float32
    assert net.values().isfinite().all()


# --- the defects of the public reference --------------------------------------------------------


def recorded(method, name):
    """Replaces a solver's ``learn`` by one that also writes down what it is given."""
    solver, results = getattr(method, name), []
    learn = solver.learn

    def spy(step, gradient, before):
        results.append((step.clone(), gradient.clone(), before.clone()))
        learn(step, gradient, before)

    solver.learn = spy
    return results


@pytest.mark.parametrize("consistency", ["gradient", "value"])
def test_sr1_pairs_come_from_one_minibatch(consistency):
    # On a quadratic of each minibatch a pair knows its matrix: y = A s for that very A.
    theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    opt = APTS([theta], radius=0.3, solver="l-sr1", global_solver="l-sr1",
               consistency=consistency)
    results = {name: recorded(opt._method, name) for name in ("_local", "_global")}
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        matrix = root @ root.T + torch.eye(3)

        def closure(backward, matrix=matrix):
            loss = 0.5 * theta @ matrix @ theta
            if backward:
                loss.backward()
            return loss.detach()

        opt.step(closure)
        assert len(results["_local"]) == 4  # all but the last of H = 5
        assert len(results["_global"]) == 1
        for pairs in results.values():
            for step, gradient, before in pairs:
                torch.testing.assert_close(gradient - before, matrix @ step)
            pairs.clear()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_local_solver_moves(norm, solver):
    gradient = torch.tensor([1.0, -0.1, 1e-4, 0.0], dtype=torch.float64)
    buffer = torch.zeros_like(gradient)

    def evaluate(step, backward):
        buffer.copy_(gradient)
        return gradient @ step

    zero = torch.zeros_like(gradient)
    local = minimise(evaluate, gradient, gradient @ zero, buffer, zero, True, 0.5, 3, norm,
                     make(solver, gradient, 3))
    assert torch.linalg.vector_norm(local.step, 2 if norm == "l2" else math.inf) == (
        pytest.approx(0.5))
    assert local.reduction > 0


def test_the_local_radius_can_grow_again():
    """A rule that shrinks after one poor step must let the next good one be longer."""
    lengths = []

    def evaluate(step, backward):
        lengths.append(step.abs().item())
        # The first trial, at 1, is a catastrophe; all is linear nearer to the start.
        return torch.where(step.abs() > 0.7, torch.full_like(step, 9.0), step)[0]

    one = torch.ones(1, dtype=torch.float64)
    minimise(evaluate, one, one[0] * 0, one, one * 0, True, 1.0, 4, "l2", make("l-sr1", one, 2))
    assert lengths[0] == 1.0
    assert lengths[1] == pytest.approx(0.5)
    assert max(lengths[2:]) > 0.9  # ½ + ½·2, and not ½ + ¼


def test_two_rises_do_not_make_a_success():
    # The model predicts a rise (a wrong sign of the gradient) and the loss rises.
    theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for solver in SOLVERS:
        opt = APTS([theta], radius=0.1, global_solver=solver, solver=solver)

        def closure(backward):
            loss = theta.square().sum()
            if backward:
                loss.backward()
                theta.grad.neg_()
            return loss.detach()

        for _ in range(6):
            opt.step(closure)
            assert not opt.last["accepted"]
            assert not opt.last["global_accepted"]
        assert theta.tolist() == [1.0, 1.0]
        assert opt.radius == 1e-3


# --- TR-Adam ------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-10, 10).map(lambda x: round(x, 4)), min_size=3, max_size=3),
                min_size=1, max_size=6),
       st.sampled_from(NORMS), st.floats(1e-3, 10))
def test_tr_adam_descends_and_is_as_long_as_the_radius(gradients, norm, radius):
    solver = TRAdam(torch.zeros(3, dtype=torch.float64))
    reach = torch.tensor(radius, dtype=torch.float64)
    for values in gradients:
        gradient = torch.tensor(values, dtype=torch.float64)
        step = solver.step(gradient, reach, norm)
        length = torch.linalg.vector_norm(step, 2 if norm == "l2" else math.inf).item()
        assert length <= radius * (1 + 1e-9)
        if gradient.any():
            assert solver.reduction(gradient, step) > 0
            if norm == "l2":
                assert length == pytest.approx(radius)


def test_tr_adam_goes_along_adams_direction():
    start = torch.tensor([1.0, -3.0, 0.02], dtype=torch.float64)
    theta, solver = nn.Parameter(start.clone()), TRAdam(torch.zeros_like(start))
    adam = torch.optim.Adam([theta], lr=1.0)
    for scale in (1.0, 0.5, 2.0):
        theta.grad = gradient = scale * torch.tensor([2.0, -1.0, 0.1], dtype=torch.float64)
        before = theta.detach().clone()
        adam.step()
        direction = theta.detach() - before
        step = solver.step(gradient, torch.tensor(0.3, dtype=torch.float64), "l2")
        torch.testing.assert_close(step, 0.3 * direction / direction.norm(), rtol=1e-5, atol=1e-7)


def test_a_gradient_that_is_not_finite_does_not_poison_the_moments():
    solver, radius = TRAdam(torch.zeros(2)), torch.tensor(1.0)
    solver.step(torch.tensor([math.nan, 1.0]), radius, "l2")
    assert solver.step(torch.tensor([1.0, 1.0]), radius, "l2").isfinite().all()


# --- the window ---------------------------------------------------------------------------------


def scripted(losses, **settings):
    """One parameter, one trial per step; the losses come from a list, the gradient is 1."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    script = iter(losses)
    opt = APTS([x], radius=0.1, local_iterations=0, **settings)

    def closure(backward):
        if backward:
            x.grad = torch.ones_like(x)
        return torch.tensor(next(script), dtype=torch.float64)

    return x, opt, closure


@pytest.mark.parametrize(("window", "accepted"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])])
def test_the_window_is_what_a_step_must_improve_on(window, accepted):
    # Pairs of losses: where the step starts and where it would end.
    x, opt, closure = scripted([5.0, 4.0, 3.0, 3.5, 3.0, 3.6], window=window)
    results = []
    for _ in range(3):
        opt.step(closure)
        results.append(int(opt.last["accepted"]))
    # 3.5 beats the 4 accepted before; 3.6 does not beat max(3, 3.5), but it beats 4.
    assert results == accepted
    last = 0.1 * results[2] if results[2] else 0
    assert x.item() == pytest.approx(-0.1 - 0.2 * results[1] - last)


def test_the_window_of_one_is_monotone_and_the_radius_never_follows_the_window():
    _, opt, closure = scripted([9.0, 8.9, 1.0, 1.5], window=5)
    opt.step(closure)
    radius = opt.radius
    opt.step(closure)  # accepted, for 1.5 < 8.9, though the loss rose
    assert opt.last["accepted"]
    assert opt.last["rho"] < 0
    assert opt.radius == radius / 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_window_accepts_a_loss_that_is_not_finite(bad):
    x, opt, closure = scripted([9.0, 8.0, 1.0, bad], window=5)
    opt.step(closure)
    before = x.item()
    opt.step(closure)
    assert not opt.last["accepted"]
    assert x.item() == before


# --- settings and presets -----------------------------------------------------------------------


def test_the_defaults_are_the_settings_of_the_paper():
    settings = paper_settings()
    assert settings == PaperSettings()
    assert (settings.local_iterations, settings.radius, settings.min_radius, settings.max_radius,
            settings.norm, settings.consistency, settings.global_pass, settings.memory) == (
        5, 0.01, 0.001, 4.0, "l2", "gradient", True, 5)
    rule = settings.rule
    assert (rule.accept, rule.low, rule.shrink, rule.high, rule.grow) == (
        0.25, 0.25, 0.5, 0.75, 2.0)


def test_the_later_preset_and_what_overrides_it():
    settings = paper_settings("2026", radius=0.01, memory=9)
    assert (settings.radius, settings.min_radius, settings.max_radius) == (0.01, 0.01, 1.0)
    assert (settings.shrink, settings.grow, settings.local_iterations) == (0.9, 1.2, 3)
    rule = settings.local_rule
    assert (rule.low, rule.shrink, rule.high, rule.grow) == (0.3, 0.6, 0.7, 1.5)
    assert settings.memory == 9
    opt = APTS([nn.Parameter(torch.ones(2))], preset="2026")
    assert opt.radius == 0.1


@pytest.mark.parametrize("wrong", [
    {"preset": "2027"}, {"solver": "newton"}, {"global_solver": "newton"}, {"memory": 0},
    {"window": 0}, {"retries": -1}, {"accept": 0.0}, {"accept": 0.3}, {"shrink": 1.0},
    {"grow": 1.0}, {"local_low": 0.9}, {"local_shrink": 0.0},
])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        APTS([nn.Parameter(torch.ones(2))], **wrong)


@pytest.mark.parametrize("name", ["apts-paper", "napts", "tr"])
def test_backends_know_the_presets_of_the_library(name):
    backend = registry.optimizer(name).backend
    later = backend.configure({"preset": "2026"})
    assert backend.configure({"preset": 2026}) == later  # as a selector reads it
    for key, value in PRESETS["2026"].items():
        assert name == "tr" or key in later
        if key in later:
            assert later[key] == value
    assert later["growth"] == 1.5
    assert later.get("overlap", 0.33) == 0.33
    defaults = PaperSettings()
    for key, value in backend.configure({}).items():
        if hasattr(defaults, key) and (name, key) != ("napts", "window"):
            assert value == getattr(defaults, key), key
    assert backend.configure({"preset": "2026", "radius": 0.02})["radius"] == 0.02
    assert registry.optimizer("napts").backend.configure({})["window"] == 5


def test_minibatches_are_the_suites_or_what_is_asked_for():
    backend = registry.optimizer("apts-paper").backend
    assert backend.batch_size(64, backend.configure({}), 6) == 64
    assert backend.batch_size(64, backend.configure({"minibatch": 10_000}), 6) == 9_996
    with pytest.raises(UserError, match=r"overlap=-0\.5"):
        backend.sampling(backend.configure({"overlap": -0.5}))
    with pytest.raises(UserError, match=r"growth=0\.5"):
        backend.sampling(backend.configure({"growth": 0.5}))


def test_first_order_remembers_nothing():
    solver = FirstOrder()
    solver.load_state_dict(solver.state_dict())
    solver.learn(torch.ones(1), torch.ones(1), torch.ones(1))
    assert solver.state_dict() == {}


@pytest.mark.parametrize(("capped", "length"), [(True, 0.5), (False, 0.5 + 1 + 2)])
def test_only_an_uncapped_local_phase_leaves_the_radius(capped, length):
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def closure(backward):
        if backward:
            x.sum().backward()
        return x.detach().sum()

    opt = APTS([x], radius=0.5, local_iterations=3, global_pass=False, capped=capped)
    opt.step(closure)  # a linear loss: every step is as predicted, and the radius doubles
    assert x.item() == pytest.approx(-length)
