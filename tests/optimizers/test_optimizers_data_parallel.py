"""The ready-made stepper: closures, names, several optimizers, and what it cannot run."""

import copy

import numpy as np
import pytest
import torch
from baseline_task import BATCH, Course

from bench_apts.contract import Backend, Hyperparameter
from bench_apts.core.errors import UserError

PRELOAD = ["baseline_task"]
STEPS, MORE = 4, 3


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation: needs the gradient before its step, and again within."""

    def step(self, closure=None):
        assert closure is not None
        parameters = self.param_groups[0]["params"]
        slopes = [0.05 * p.grad for p in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, slopes)
        closure()
        with torch.no_grad():
            torch._foreach_sub_(parameters, slopes)
        return super().step()


class Curvature(torch.optim.SGD):
    """Differentiates the gradient, as Sophia does."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            torch.autograd.grad(p.grad, p, torch.ones_like(p))


class Ignorant(torch.optim.SGD):
    def step(self, closure):
        pass


class Ignoring(torch.optim.SGD):
    """As many people write theirs: a closure is accepted and never looked at."""

    def step(self, closure=None):
        return super().step()


class Polyak(torch.optim.SGD):
    """Limits a step by the loss, which has to be the same on all ranks."""

    def step(self, closure=None, loss=None):
        assert closure is None
        (group,) = self.param_groups
        square = sum(p.grad.square().sum() for p in group["params"])
        group["lr"] = min(group["lr"], float(0.005 * loss / square))
        return super().step()


def lbfgs(**more):
    return lambda p, lr: torch.optim.LBFGS(p, lr=lr, max_iter=4, history_size=5, **more), {}


def muon_and_adam(named, lr):
    named = list(named)
    return [torch.optim.Muon([(n, p) for n, p in named if p.ndim == 2], lr=lr),
            torch.optim.AdamW([(n, p) for n, p in named if p.ndim != 2], lr=lr)]


KINDS = {
    "sgd": (lambda p, lr: torch.optim.SGD(p, lr=lr), {}),
    "ignoring": (lambda p, lr: Ignoring(p, lr=lr), {}),
    "lbfgs": lbfgs(),
    "lbfgs-wolfe": lbfgs(line_search_fn="strong_wolfe"),
    "sam": (lambda p, lr: SAM(p, lr=lr), {"closure": True}),
    "polyak": (lambda p, lr: Polyak(p, lr=lr), {}),
    "clipped": (lambda p, lr: torch.optim.SGD(p, lr=lr), {"clip": 0.1}),
    "muon": (muon_and_adam, {"named": True}),
    "muon-alone": (lambda p, lr: torch.optim.Muon(p, lr=lr), {}),
    "curvature": (lambda p, lr: Curvature(p, lr=lr), {}),
    "ignorant": (lambda p, lr: Ignorant(p, lr=lr), {}),
    "lbfgs-and-sgd": (lambda p, lr: [torch.optim.LBFGS(p := list(p)), torch.optim.SGD(p)], {}),
}
RUNS = ("sgd", "ignoring", "lbfgs", "lbfgs-wolfe", "sam", "polyak", "clipped", "muon")
CLOSURES = ("lbfgs", "lbfgs-wolfe", "sam")


def build(model, loss, values, world):
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    make, options = KINDS[values["kind"]]
    return DataParallelStepper(model, loss, world, lambda p: make(p, values["lr"]), **options)


backend = Backend("test", "any", {"lr": Hyperparameter(0.05, "rate"),
                                  "kind": Hyperparameter("sgd", "which", options=tuple(KINDS))},
                  build)


def course(ranks, kind):
    mine = Course(backend, ranks.rank, ranks.size, kind=kind, steps=40)
    passes = []
    fixed = torch.randn(500, 5, generator=torch.Generator().manual_seed(1))

    def loss():
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(
                mine.model(fixed), (fixed @ mine.truth).argmax(1)).item()

    before = loss()
    losses, reports, weights, traffic = [], [], [], []
    mine.model.register_forward_hook(lambda *_: passes.append("forward"))
    for number in range(STEPS):
        ranks.meter.phase = str(number)
        passes.clear()
        report = mine.step()
        losses.append(float(report.loss))
        reports.append((report.samples, report.forwards, report.backwards, len(passes)))
        weights.append(mine.weights())
        traffic.append({name: t.calls for name, t
                        in ranks.meter.snapshot().get(str(number), {}).items()})
    fallen = before - loss()
    ranks.meter.phase = "after"
    ends, state, place = [], copy.deepcopy(mine.stepper.state_dict()), mine.generator.get_state()
    for _ in range(2):
        for _ in range(MORE):
            mine.step()
        ends.append(mine.weights())
        mine.stepper.load_state_dict(state)
        mine.generator.set_state(place)
    return {"losses": losses, "reports": reports, "weights": weights, "ends": ends,
            "traffic": traffic, "fallen": fallen, "taken": mine.stepper.taken}


@pytest.fixture(scope="module")
def courses(on_ranks):
    done = {}

    def of(kind, size):
        if (kind, size) not in done:
            done[kind, size] = on_ranks(course, size, kind)
        return done[kind, size]

    return of


@pytest.mark.parametrize("kind", RUNS)
def test_replicas_stay_equal_bit_for_bit_and_the_loss_falls(courses, kind):
    one, two = courses(kind, 2)
    for mine, other in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert one["losses"] != two["losses"]
    assert one["fallen"] == two["fallen"] > 0.003
    (alone,) = courses(kind, 1)
    np.testing.assert_allclose(one["weights"][-1], alone["weights"][-1], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", RUNS)
def test_passes_and_samples_are_those_that_were_done(courses, kind, size):
    for rank in courses(kind, size):
        for samples, forwards, backwards, seen in rank["reports"]:
            assert forwards == backwards == seen
            assert samples == forwards * BATCH // size
        counts = [forwards for _, forwards, _, _ in rank["reports"]]
        if kind in CLOSURES:
            assert max(counts) > 1
        else:
            assert counts == [1] * STEPS


@pytest.mark.parametrize("kind", RUNS)
def test_a_pass_sends_its_gradient_and_its_loss_where_the_optimizer_takes_it(courses, kind):
    for rank in courses(kind, 2):
        # DDP rebuilds its buckets in its second backward pass.
        steps = list(zip(rank["reports"], rank["traffic"], strict=True))
        for (_, passes, _, _), calls in steps[2:]:
            averaged = passes if kind in (*CLOSURES, "polyak") else 0
            assert calls == {"all_reduce": passes + averaged - (kind == "sam")}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", RUNS)
def test_a_state_taken_back_goes_on_bit_for_bit(courses, kind, size):
    for rank in courses(kind, size):
        np.testing.assert_array_equal(*rank["ends"])
        assert (rank["ends"][0] != rank["weights"][-1]).any()


def test_the_schedule_runs_over_what_was_processed(courses):
    (rank,) = courses("lbfgs", 1)
    assert rank["taken"] == sum(forwards for _, forwards, _, _ in rank["reports"])


def test_a_closure_that_is_ignored_does_no_harm():
    plain, ignoring = Course(backend, kind="sgd"), Course(backend, kind="ignoring")
    for _ in range(5):
        plain.step()
        ignoring.step()
    np.testing.assert_array_equal(plain.weights(), ignoring.weights())


def test_a_clipped_step_has_the_length_of_its_limit():
    plain, clipped = Course(backend, kind="sgd"), Course(backend, kind="clipped")
    start = plain.weights()
    for each in (plain, clipped):
        each.step()
    assert np.linalg.norm(plain.weights() - start) > 0.06 * 0.1
    # At the learning rate of 0.05.
    assert np.linalg.norm(clipped.weights() - start) == pytest.approx(0.05 * 0.1, rel=1e-4)


def test_names_reach_the_optimizer_and_its_state():
    mine = Course(backend, kind="muon")
    assert [each.param_groups[0]["param_names"] for each in mine.stepper.optimizers] == [
        ["0.weight", "2.weight"], ["0.bias", "2.bias"]]


@pytest.mark.parametrize(("kind", "error", "token"), [
    ("muon-alone", ValueError, "2D"),
    ("curvature", UserError, "create_graph"),
    ("ignorant", UserError, "never called"),
    ("lbfgs-and-sgd", UserError, "only one"),
])
def test_what_cannot_run_is_one_line(kind, error, token):
    with pytest.raises(error, match=token) as caught:
        Course(backend, kind=kind).step()
    assert "\n" not in str(caught.value)
