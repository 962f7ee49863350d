"""APTS in one process: hand-computed iterations, convergence, rejections, state, bad input."""

import io
import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench_apts.optimizers.apts import APTS

NORMS = ("l2", "linf")


def parameter(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(theta, matrix):
    """A closure over ½ θᵀAθ."""

    def closure(backward):
        loss = 0.5 * torch.dot(theta, matrix @ theta)
        if backward:
            loss.backward()
        return loss.detach()

    return closure


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


class Network:
    """A small network on random data, with an optimizer and a closure that counts its calls."""

    def __init__(self, seed=0, dtype=torch.float32, batch_norm=False, frozen=False, **settings):
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 7), nn.BatchNorm1d(7)] if batch_norm else [nn.Linear(5, 7)]
        self.model = nn.Sequential(*layers, nn.Tanh(), nn.Linear(7, 3)).to(dtype)
        if frozen:
            self.model[0].requires_grad_(False)
        self.inputs = torch.randn(32, 5, dtype=dtype)
        self.targets = torch.randint(3, (32,))
        self.calls = []
        self.disturb = None
        self.optimizer = APTS(
            self.model.parameters(), buffers=self.model.buffers(), **{"radius": 0.1} | settings)

    def closure(self, backward):
        self.calls.append(backward)
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        if backward:
            loss.backward()
        value = loss.detach()
        return value if self.disturb is None else self.disturb(len(self.calls), value)

    def step(self):
        self.calls.clear()
        return self.optimizer.step(self.closure)

    def state(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- iterations computed by hand ---------------------------------------------------------------


def test_local_phase_and_judgement_by_hand():
    # f(x) = x²/2 from 1, Δ = 1/4, one local iteration, no global pass.
    x = parameter(1.0)
    opt = APTS([x], radius=0.25, local_iterations=1, global_pass=False)
    closure = quadratic(x, diagonal(1.0))
    # 1: x = 3/4, m = 1/2 − 9/32 = 7/32; one subdomain's model is exact, so ρ = 1 and Δ = 1/2.
    assert opt.step(closure).item() == 0.5
    assert x.item() == 0.75
    assert opt.last | {"rho": 1.0, "accepted": True, "radius": 0.5, "loss": 9 / 32,
                       "predicted_reduction": 7 / 32, "actual_reduction": 7 / 32} == opt.last
    # 2: x = 1/4, m = 9/32 − 1/32 = 1/4, ρ = 1, Δ = 1.
    opt.step(closure)
    assert (x.item(), opt.last["predicted_reduction"], opt.last["rho"]) == (0.25, 0.25, 1.0)
    assert opt.radius == 1.0
    # 3: the trial −3/4 raises f, so the local phase stays: m = 0 predicts nothing, ρ = −∞.
    opt.step(closure)
    assert (x.item(), opt.last["rho"], opt.last["accepted"]) == (0.25, -math.inf, False)
    assert opt.radius == 0.5


def test_local_phase_and_global_pass_by_hand():
    x = parameter(1.0)
    opt = APTS([x], radius=0.25, local_iterations=1)
    closure = quadratic(x, diagonal(1.0))
    # 1: as above to x = 3/4 and Δ = 1/2; then −1/2 along g = 3/4: predicted 3/8, actual
    #    9/32 − 1/32 = 1/4, ρ = 2/3: accepted, Δ stays.
    opt.step(closure)
    assert x.item() == 0.25
    assert (opt.last["rho"], opt.last["accepted"]) == (1.0, True)
    assert opt.last["global_rho"] == pytest.approx(2 / 3, rel=1e-15)
    assert opt.last["global_accepted"] is True
    assert (opt.radius, opt.last["loss"]) == (0.5, 1 / 32)
    # 2: the local trial −1/4 gains nothing: ρ = −∞, Δ = 1/4. The global pass from 1/4 reaches 0:
    #    predicted 1/16, actual 1/32, ρ = 1/2.
    opt.step(closure)
    assert (opt.last["rho"], opt.last["accepted"]) == (-math.inf, False)
    assert (opt.last["global_rho"], opt.last["global_accepted"]) == (0.5, True)
    assert (x.item(), opt.radius) == (0.0, 0.25)


def test_plain_trust_region_by_hand_in_the_2_norm():
    # A = diag(1, 4) from (3, 1), Δ = 1. With ĝ = g/‖g‖: ρ = 1 − ½Δ ĝᵀAĝ/‖g‖.
    theta = parameter(3.0, 1.0)
    opt = APTS([theta], radius=1.0, local_iterations=0)
    closure = quadratic(theta, diagonal(1.0, 4.0))
    # 1: g = (3, 4), ĝᵀAĝ = 0.36 + 4·0.64 = 2.92, ρ = 1 − 1.46/5 = 0.708: Δ stays.
    assert opt.step(closure).item() == 6.5
    assert theta.tolist() == pytest.approx([2.4, 0.2], rel=1e-14)
    assert opt.last["rho"] == pytest.approx(0.708, rel=1e-13)
    assert opt.radius == 1.0
    # 2: g = (2.4, 0.8), ‖g‖ = √6.4, ĝᵀAĝ = 8.32/6.4 = 1.3, ρ = 1 − 0.65/√6.4 = 0.743.
    opt.step(closure)
    root = math.sqrt(6.4)
    assert theta.tolist() == pytest.approx([2.4 - 2.4 / root, 0.2 - 0.8 / root], rel=1e-13)
    assert opt.last["rho"] == pytest.approx(1 - 0.65 / root, rel=1e-13)
    assert opt.radius == 1.0


def test_plain_trust_region_by_hand_in_the_max_norm():
    theta = parameter(3.0, 1.0)
    opt = APTS([theta], radius=0.5, local_iterations=0, norm="linf")
    closure = quadratic(theta, diagonal(1.0, 4.0))
    # 1: g = (3, 4), step (−½, −½): predicted 3.5, f from 6.5 to 3.625, ρ = 2.875/3.5 > 3/4.
    opt.step(closure)
    assert theta.tolist() == [2.5, 0.5]
    assert opt.last["rho"] == pytest.approx(2.875 / 3.5, rel=1e-15)
    assert opt.radius == 1.0
    # 2: g = (2.5, 2), step (−1, −1): predicted 4.5, f to 1.125 + 0.5, ρ = 2/4.5: Δ stays.
    opt.step(closure)
    assert theta.tolist() == [1.5, -0.5]
    assert opt.last["rho"] == pytest.approx(2 / 4.5, rel=1e-15)
    assert opt.radius == 1.0


# --- convergence -------------------------------------------------------------------------------


@st.composite
def convex(draw):
    """A start and a positive definite matrix with a condition number up to 20."""
    n = draw(st.integers(1, 5))
    start = draw(st.lists(st.floats(-3, 3), min_size=n, max_size=n))
    eigenvalues = draw(st.lists(st.floats(0.2, 4.0), min_size=n, max_size=n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rotation = torch.linalg.qr(
        torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    return start, rotation @ diagonal(*eigenvalues) @ rotation.T, max(eigenvalues)


@settings(deadline=None, max_examples=25)
@given(convex(), st.sampled_from(NORMS), st.sampled_from([0, 1, 3]), st.booleans())
def test_a_convex_quadratic_is_minimised_from_anywhere(problem, norm, iterations, global_pass):
    start, matrix, largest = problem
    theta, smallest = parameter(*start), 1e-3
    opt = APTS([theta], radius=0.01, min_radius=smallest, norm=norm, local_iterations=iterations,
               global_pass=global_pass or iterations == 0)
    closure = quadratic(theta, matrix)
    # A first-order step of the smallest radius δ lowers the loss by δ‖g‖* − ½δ²sᵀAs, ‖s‖ = 1,
    # so it is accepted as long as ‖g‖* > δ·max sᵀAs: only below that may the method stand still.
    dual = 2 if norm == "l2" else 1
    bound = smallest * largest * (1 if norm == "l2" else len(start))
    losses = []
    for _ in range(3000):
        losses.append(opt.step(closure).item())
        assert smallest <= opt.radius <= 4.0
        if torch.linalg.vector_norm(matrix @ theta.detach(), dual) <= bound:
            break
    else:
        pytest.fail(f"‖∇f‖ is still {torch.linalg.vector_norm(matrix @ theta.detach(), dual)}")
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("iterations", [0, 5])
def test_a_network_learns(norm, iterations):
    net = Network(norm=norm, local_iterations=iterations, radius=0.01)
    losses = [net.step().item() for _ in range(40)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


# --- rejections --------------------------------------------------------------------------------


def test_a_step_that_raises_the_loss_is_undone_bit_for_bit():
    theta = parameter(0.1, -0.3)
    before = theta.detach().clone()
    opt = APTS([theta], radius=4.0, local_iterations=0)
    opt.step(quadratic(theta, diagonal(1.0, 2.0)))  # far beyond the minimum at 0
    assert opt.last["accepted"] is False
    assert -math.inf < opt.last["rho"] < 0
    assert torch.equal(theta, before)
    assert opt.radius == 2.0


@pytest.mark.parametrize(("accept", "ends"), [(0.25, 1.0), (0.1, -0.7)])
def test_how_poor_a_step_is_kept_is_a_setting(accept, ends):
    # x²/2 from 1, Δ = 1.7: predicted 1.7, actual 1.7 − 1.7²/2, ρ = 1 − 1.7/2 = 0.15.
    x = parameter(1.0)
    opt = APTS([x], radius=1.7, local_iterations=0, accept=accept)
    opt.step(quadratic(x, diagonal(1.0)))
    assert opt.last["rho"] == pytest.approx(0.15)
    assert x.item() == pytest.approx(ends)
    assert opt.radius == 0.85


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e3])
@pytest.mark.parametrize("global_pass", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_bad_loss_at_the_judgement_is_undone_bit_for_bit(bad, global_pass, batch_norm):
    net = Network(local_iterations=2, global_pass=global_pass, batch_norm=batch_norm)
    net.step()
    reference = net.state()
    with torch.no_grad():
        net.model(net.inputs)  # the pass at the iterate is the one that BatchNorm remembers
    expected = net.state()
    net.model.load_state_dict(reference)
    # One pass at the iterate and two local ones come before the judgement.
    net.disturb = lambda call, value: value if call <= 3 else torch.full_like(value, bad)
    radius = net.optimizer.radius
    net.step()
    assert net.optimizer.last["accepted"] is False
    assert equal(net.state(), expected)
    assert net.optimizer.radius == radius / (4 if global_pass else 2)


def test_local_trials_that_fail_leave_no_trace():
    net = Network(local_iterations=3, global_pass=False)
    before = net.state()
    net.disturb = lambda call, value: value if call == 1 else value + 1e3
    net.step()
    assert net.optimizer.last["predicted_reduction"] == 0
    assert (net.optimizer.last["rho"], net.optimizer.last["accepted"]) == (-math.inf, False)
    assert equal(net.state(), before)


@pytest.mark.parametrize("iterations", [0, 2])
def test_at_the_smallest_radius_an_increasing_step_is_never_kept(iterations):
    x = parameter(0.1)
    opt = APTS([x], radius=1.0, min_radius=1.0, local_iterations=iterations)
    closure = quadratic(x, diagonal(1.0))
    for _ in range(5):
        before = 0.5 * x.item() ** 2
        opt.step(closure)
        assert opt.radius == 1.0
        assert 0.5 * x.item() ** 2 <= before
    # Within the local phase the radius may halve below the bound; the plain method cannot move.
    assert x.item() == 0.1 or iterations


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("iterations", [0, 3])
def test_a_step_that_predicts_nothing_is_never_accepted(norm, iterations):
    theta = parameter(0.0, 0.0)  # the minimum: the gradient is zero
    opt = APTS([theta], radius=1.0, local_iterations=iterations, norm=norm)
    opt.step(quadratic(theta, diagonal(1.0, 2.0)))
    assert (opt.last["rho"], opt.last["accepted"]) == (-math.inf, False)
    assert theta.tolist() == [0.0, 0.0]
    # The global pass has nothing to follow either, so with a local phase Δ halves twice.
    assert opt.radius == (0.5 if iterations == 0 else 0.25)


def test_the_wrong_direction_is_never_accepted():
    # The gradient's sign is wrong, so every trial raises the loss.
    x = parameter(1.0)
    inner = quadratic(x, diagonal(1.0))

    def closure(backward):
        value = inner(backward)
        if backward:
            x.grad.neg_()
        return value

    for settings_ in ({"local_iterations": 0}, {"local_iterations": 3}):
        opt = APTS([x], radius=0.1, **settings_)
        for _ in range(10):
            opt.step(closure)
            assert opt.last["accepted"] is False
            assert x.item() == 1.0
        assert opt.radius == 1e-3


# --- passes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("global_pass", [True, False])
def test_passes_are_those_of_the_cost_model_and_one_process_sends_nothing(iterations, global_pass):
    net = Network(local_iterations=iterations, global_pass=global_pass)
    for _ in range(3):
        net.step()
        extra = (3, 1) if global_pass else (2, 0)
        expected = (iterations + extra[0], iterations + extra[1])
        assert (len(net.calls), sum(net.calls)) == expected
        last = net.optimizer.last
        assert (last["forwards"], last["backwards"]) == expected
        assert (last["floats"], last["calls"]) == (0, 0)


def test_the_plain_method_needs_two_forward_passes_and_one_backward():
    net = Network(local_iterations=0)
    net.step()
    assert net.calls == [True, False]


# --- an optimizer as any other -----------------------------------------------------------------


def test_no_process_group_is_needed():
    assert not dist.is_initialized()
    net = Network()
    first = net.step().item()
    assert net.step().item() < first
    assert isinstance(net.optimizer, torch.optim.Optimizer)


def test_the_step_returns_the_loss_that_it_started_from():
    net = Network()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net.model(net.inputs), net.targets)
    torch.testing.assert_close(net.step(), expected)
    with torch.no_grad():
        reached = nn.functional.cross_entropy(net.model(net.inputs), net.targets)
    assert net.optimizer.last["loss"] == pytest.approx(reached.item(), rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_same_seed_same_trajectory(norm):
    one, other = Network(norm=norm), Network(norm=norm)
    for _ in range(10):
        assert one.step() == other.step()
    assert equal(one.state(), other.state())
    assert one.optimizer.last == other.optimizer.last


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_saved_state_continues_bit_for_bit(batch_norm):
    straight, saved = Network(batch_norm=batch_norm), Network(batch_norm=batch_norm)
    for _ in range(5):
        straight.step()
        saved.step()
    file = io.BytesIO()
    torch.save([saved.model.state_dict(), saved.optimizer.state_dict()], file)
    file.seek(0)
    resumed = Network(batch_norm=batch_norm, radius=0.02)
    model, optimizer = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    for _ in range(10):
        assert straight.step() == resumed.step()
    assert equal(straight.state(), resumed.state())
    assert straight.optimizer.radius == resumed.optimizer.radius


def test_frozen_parameters_stay():
    net = Network(frozen=True)
    before = net.state()
    net.step()
    after = net.state()
    assert net.optimizer.last["accepted"]
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("0.")
    assert net.model[0].weight.grad is None


def test_parameter_groups_do_not_change_the_trajectory():
    one, grouped = Network(), Network()
    first, *rest = grouped.model.parameters()
    grouped.optimizer = APTS([{"params": [first]}, {"params": rest}], radius=0.1)
    assert len(grouped.optimizer.param_groups) == 2
    for _ in range(5):
        assert one.step() == grouped.step()
    assert equal(one.state(), grouped.state())


def test_other_hands_on_gradients_and_data_do_no_harm():
    one, handled = Network(), Network()
    for turn in range(6):
        if turn % 3 == 0:
            handled.model.zero_grad(set_to_none=True)
        elif turn % 3 == 1:
            handled.optimizer.zero_grad()
            for p in handled.model.parameters():
                p.grad = torch.full_like(p, 7.0)
        else:
            for p in handled.model.parameters():
                p.data = p.data.clone()
        assert one.step() == handled.step()
    assert equal(one.state(), handled.state())


def test_zero_grad_sets_gradients_to_none():
    net = Network()
    net.closure(True)
    assert any(p.grad.abs().sum() > 0 for p in net.model.parameters())
    net.optimizer.zero_grad()
    assert all(p.grad is None for p in net.model.parameters())


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [
    {"radius": 0.0}, {"radius": -1.0}, {"radius": math.nan}, {"radius": 5.0}, {"radius": 1e-4},
    {"radius": 0.0, "min_radius": 0.0}, {"radius": -1.0, "min_radius": -1.0},
    {"norm": "l1"}, {"norm": None}, {"consistency": "both"}, {"local_iterations": -1},
    {"local_iterations": 0, "global_pass": False}, {"max_radius": 1e-4},
])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        APTS([parameter(1.0)], **wrong)


def test_parameters_that_cannot_be_trained_are_refused():
    with pytest.raises(ValueError, match="empty parameter list"):
        APTS([])
    with pytest.raises(ValueError, match="requires a gradient"):
        APTS([nn.Parameter(torch.ones(2), requires_grad=False)])
    with pytest.raises(ValueError, match="same dtype"):
        APTS([nn.Parameter(torch.ones(2)), parameter(1.0)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_iterate_raises(bad):
    net = Network()
    before = net.state()
    net.disturb = lambda call, value: torch.full_like(value, bad)
    with pytest.raises(FloatingPointError, match="loss at the current iterate"):
        net.step()
    assert equal(net.state(), before)
    net.disturb = None
    net.step()  # and it can go on
    assert net.optimizer.last["accepted"]
