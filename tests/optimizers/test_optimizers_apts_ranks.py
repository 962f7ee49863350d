"""APTS on real ranks over gloo, against a plain reference of the published outer iteration."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from bench_apts.optimizers.apts import APTS

SIZES = (1, 2, 4)
SAMPLES = 48

SETTINGS = [
    {"norm": norm, "consistency": consistency, "global_pass": global_pass,
     "local_iterations": iterations, "radius": radius}
    for (norm, radius), consistency, global_pass, iterations in itertools.product(
        [("l2", 0.5), ("linf", 0.1)], ["gradient", "value"], [True, False], [1, 4])
] + [
    # Far too large a radius, so that steps are rejected.
    {"norm": "l2", "consistency": "gradient", "global_pass": True, "local_iterations": 3,
     "radius": 4.0},
    {"norm": "linf", "consistency": "gradient", "global_pass": False, "local_iterations": 3,
     "radius": 2.0},
]
STEPS = 5


# --- the same small problem for real and for simulated ranks ------------------------------------


def network(dtype=torch.float64, batch_norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(6)] if batch_norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def shard(rank, size, dtype=torch.float64):
    """Rank's share of fixed data; each share has its own offset, so that shards disagree."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 4, generator=generator, dtype=dtype)
    targets = torch.randint(3, (SAMPLES,), generator=generator)
    place = slice(rank * SAMPLES // size, (rank + 1) * SAMPLES // size)
    return inputs[place] + rank, targets[place]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fingerprint(model):
    total = hashlib.sha256()
    for value in model.state_dict().values():
        total.update(value.numpy().tobytes())
    return total.hexdigest()


class Trained:
    """One rank's network with its optimizer; ``seen`` holds where the closure was called."""

    def __init__(self, rank, size, dtype=torch.float64, batch_norm=False, group=None, **settings):
        self.model = network(dtype, batch_norm)
        self.inputs, self.targets = shard(rank, size, dtype)
        self.optimizer = APTS(self.model.parameters(), group, buffers=self.model.buffers(),
                              **settings)
        self.seen = []
        self.disturb = lambda call, value: value

    def closure(self, backward):
        self.seen.append((flat(self.model), backward))
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        if backward:
            loss.backward()
        return self.disturb(len(self.seen), loss.detach())

    def step(self):
        self.seen.clear()
        return self.optimizer.step(self.closure).item()


# --- the reference: N simulated ranks, one after another, no flat buffers, no masks -------------


def simulated_shard(rank, size):
    model, (inputs, targets) = network(), shard(rank, size)
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def evaluate(theta):
        theta = theta.clone().requires_grad_(True)
        parts = theta.split([math.prod(shape) for shape in shapes.values()])
        named = {name: part.view(shape)
                 for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        loss = nn.functional.cross_entropy(
            torch.func.functional_call(model, named, (inputs,)), targets)
        return loss.item(), torch.autograd.grad(loss, theta)[0]

    return evaluate


def first_order(gradient, radius, norm):
    if norm == "linf":
        return -radius * torch.sign(gradient)
    return -radius * gradient / torch.linalg.vector_norm(gradient)


def held(step, radius, norm):
    if norm == "linf":
        return torch.clip(step, -radius, radius)
    size = torch.linalg.vector_norm(step).item()
    return step * (radius / size) if size > radius else step


def changed(radius, rho, largest, smallest=0.0):
    if rho < 0.25:
        return max(radius / 2, smallest)
    return min(radius * 2, largest) if rho > 0.75 else radius


def local_phase(evaluate, theta, own_value, own_gradient, gradient, radius, settings):
    correction = gradient - own_gradient
    corrects = settings["consistency"] == "gradient"
    direction = gradient if corrects else own_gradient
    step, value, reach = torch.zeros_like(theta), own_value, radius
    for _ in range(settings["local_iterations"]):
        trial = held(step + first_order(direction, reach, settings["norm"]), radius,
                     settings["norm"])
        found, slope = evaluate(theta + trial)
        found += (correction @ trial).item()
        predicted = -(direction @ (trial - step)).item()
        rho = -1.0
        if found < value and predicted > 0:
            rho = (value - found) / predicted
            step, value = trial, found
            direction = slope + correction if corrects else slope
        reach = changed(reach, rho, radius)
    return step, own_value - value


def outer_iteration(theta, radius, shards, settings):
    """One iteration as published; returns where it ends and what happened."""
    size, norm = len(shards), settings["norm"]

    def mean(pairs):
        values, gradients = zip(*pairs, strict=True)
        return sum(values) / size, sum(gradients) / size

    def judged(start, step, loss, predicted, radius):
        trial, slope = mean([evaluate(start + step) for evaluate in shards])
        rho = (loss - trial) / predicted if predicted > 0 else -math.inf
        accepted = rho >= 0.25
        return accepted, rho, trial, slope, changed(radius, rho, 4.0, 1e-3)

    own = [evaluate(theta) for evaluate in shards]
    loss, gradient = mean(own)
    reported = {"loss": loss}
    local = [local_phase(evaluate, theta, *pair, gradient,
                         radius / size if norm == "l2" else radius, settings)
             for evaluate, pair in zip(shards, own, strict=True)]
    share = 1 if norm == "l2" else size
    step = sum(s for s, _ in local) / share
    predicted = sum(m for _, m in local) / share
    accepted, rho, trial, slope, radius = judged(theta, step, loss, predicted, radius)
    reported |= {"rho": rho, "accepted": accepted, "predicted_reduction": predicted}
    if accepted:
        theta, loss, gradient = theta + step, trial, slope
    if settings["global_pass"]:
        step = first_order(gradient, radius, norm)
        accepted, rho, trial, _, radius = judged(
            theta, step, loss, -(gradient @ step).item(), radius)
        reported |= {"global_rho": rho, "global_accepted": accepted}
        if accepted:
            theta = theta + step
    return theta, radius, reported


# --- what the ranks do --------------------------------------------------------------------------


def trajectories(ranks):
    """Every setting for a few steps in both precisions, with all that a test may ask."""
    reported, meter = [], ranks.meter
    for settings, dtype in itertools.product(SETTINGS, (torch.float64, torch.float32)):
        net = Trained(ranks.rank, ranks.size, dtype, **settings)
        steps = []
        for number in range(STEPS):
            meter.phase = f"{len(reported)} {number}"
            before, radius = flat(net.model), net.optimizer.radius
            loss = net.step()
            traffic = meter.snapshot().get(meter.phase, {})
            steps.append({
                "theta": flat(net.model).numpy(), "before": before.numpy(), "started": radius,
                "hash": fingerprint(net.model), "last": dict(net.optimizer.last), "loss": loss,
                "backwards": [backward for _, backward in net.seen],
                "first": (net.seen[1][0] - before).numpy(),
                "traffic": {name: (t.calls, t.payload_bytes) for name, t in traffic.items()}})
        reported.append((settings, str(dtype), steps))
    return reported


def linear(ranks, norm):
    """L_i = ⟨c_i, θ⟩: the corrected local objectives are all ⟨mean c, θ⟩."""
    theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    slope = torch.tensor([[6.0, 0.0], [0.0, 8.0]], dtype=torch.float64)[ranks.rank]

    def closure(backward):
        loss = slope @ theta
        if backward:
            loss.backward()
        return loss.detach()

    opt = APTS([theta], norm=norm, radius=0.5, local_iterations=1, global_pass=False)
    opt.step(closure)
    return theta.tolist(), dict(opt.last)


def batch_norm(ranks):
    """BatchNorm statistics after accepted and rejected steps, with what one pass leaves."""
    reported = []
    for radius in (0.1, 4.0):
        net = Trained(ranks.rank, ranks.size, torch.float32, batch_norm=True, radius=radius,
                      local_iterations=3)
        for _ in range(4):
            twin = network(torch.float32, batch_norm=True)
            twin.load_state_dict(net.model.state_dict())
            with torch.no_grad():
                twin(net.inputs)
            expected = [b.clone().double() for b in twin.buffers()]
            for buffer in expected:
                dist.all_reduce(buffer)
            net.step()
            reported.append({
                "hash": fingerprint(net.model),
                "accepted": [net.optimizer.last[key] for key in ("accepted", "global_accepted")],
                "buffers": [b.double().numpy() for b in net.model.buffers()],
                "expected": [(b / ranks.size).numpy() for b in expected],
                "floats": net.optimizer.last["floats"], "calls": net.optimizer.last["calls"]})
    return reported


def not_finite(ranks):
    """One rank's loss turns NaN at each call in turn; everyone has to come out alike."""
    reported = []
    for call in range(1, 7):
        net = Trained(ranks.rank, ranks.size, torch.float32, radius=0.1, local_iterations=3)
        net.step()
        before = fingerprint(net.model)
        if ranks.rank == ranks.size - 1:
            net.disturb = lambda number, value, call=call: (
                torch.full_like(value, math.nan) if number == call else value)
        try:
            net.step()
            raised = None
        except FloatingPointError as error:
            raised = str(error)
        # Nobody is left in a collective: the next one works, and so does the next step.
        dist.barrier()
        after, last = fingerprint(net.model), dict(net.optimizer.last)
        net.disturb = lambda number, value: value
        net.step()
        reported.append((raised, before, after, last, fingerprint(net.model)))
    return reported


def halves(ranks):
    """Two independent pairs of ranks."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    net = Trained(ranks.rank, ranks.size, torch.float32, group=groups[ranks.rank // 2])
    for _ in range(3):
        net.step()
    return fingerprint(net.model), net.optimizer.last["calls"]


# --- what must hold -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(on_ranks):
    """Per world size, per rank: the trajectories of all settings."""
    return {size: on_ranks(trajectories, size) for size in SIZES}


def each_step(runs, size):
    """Yields (settings, dtype, [step of rank 0, step of rank 1, …])."""
    for cells in zip(*runs[size], strict=True):
        settings, dtype, _ = cells[0]
        for steps in zip(*(cell[2] for cell in cells), strict=True):
            yield settings, dtype, steps


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_hold_the_same_parameters_after_every_step(runs, size):
    for settings, dtype, steps in each_step(runs, size):
        assert len({step["hash"] for step in steps}) == 1, (settings, dtype)
        for step in steps:
            assert step["last"] == steps[0]["last"]
            assert step["loss"] == steps[0]["loss"]


@pytest.mark.parametrize("size", SIZES)
def test_n_processes_equal_n_simulated_ranks(runs, size):
    shards = [simulated_shard(rank, size) for rank in range(size)]
    decisions = set()
    for settings, dtype, steps in runs[size][0]:
        if dtype != "torch.float64":
            continue
        theta, radius = flat(network()), settings["radius"]
        for number, step in enumerate(steps):
            where = f"step {number} of {settings}"
            theta, radius, reported = outer_iteration(theta, radius, shards, settings)
            np.testing.assert_allclose(step["theta"], theta.numpy(), rtol=0, atol=1e-9,
                                       err_msg=where)
            assert step["last"]["radius"] == radius, where
            assert step["loss"] == pytest.approx(reported.pop("loss"), abs=1e-10), where
            for key, value in reported.items():
                assert step["last"][key] == pytest.approx(value, rel=1e-6, abs=1e-9), (where, key)
            decisions |= {(key, value) for key, value in reported.items() if "accepted" in key}
    # The comparison is worth something only if both answers were given in both places.
    assert decisions >= {("accepted", True), ("accepted", False), ("global_accepted", True),
                         ("global_accepted", False)}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_first_local_gradient_is_the_global_one_on_every_rank(runs, size, norm):
    shards = [simulated_shard(rank, size) for rank in range(size)]
    compared = {"gradient": 0, "value": 0}
    for settings, dtype, steps in each_step(runs, size):
        if settings["norm"] != norm or dtype != "torch.float64":
            continue
        # The first local trial shows which gradient a rank went along.
        before = torch.from_numpy(steps[0]["before"])
        own = [evaluate(before)[1] for evaluate in shards]
        local = steps[0]["started"] / (size if norm == "l2" else 1)
        corrects = settings["consistency"] == "gradient"
        for step, gradient in zip(steps, own, strict=True):
            along = sum(own) / size if corrects else gradient
            expected = first_order(along, local, norm).numpy()
            np.testing.assert_allclose(step["first"], expected, rtol=0, atol=1e-10)
        alike = all(np.array_equal(step["first"], steps[0]["first"]) for step in steps)
        assert alike == corrects
        compared[settings["consistency"]] += 1
    assert min(compared.values()) >= STEPS


@pytest.mark.parametrize("size", SIZES)
def test_the_combined_step_stays_within_the_radius(runs, size):
    for settings, _, (step, *_) in each_step(runs, size):
        order = 2 if settings["norm"] == "l2" else np.inf
        moved = np.linalg.norm(step["theta"].astype(np.float64) - step["before"], order)
        allowed = step["started"]
        if settings["global_pass"]:
            # The judgement may have doubled the radius that the global pass then used.
            allowed += min(4.0, 2 * step["started"])
        assert moved <= allowed * (1 + 1e-5), settings
        assert 1e-3 <= step["last"]["radius"] <= 4.0


@pytest.mark.parametrize("size", SIZES)
def test_floats_calls_and_passes_are_those_of_the_cost_model(runs, size):
    n = len(flat(network()))
    for settings, dtype, steps in each_step(runs, size):
        h, whole = settings["local_iterations"], settings["global_pass"]
        floats, calls = (3 * n + 4, 4) if whole else (2 * n + 3, 3)
        if size == 1:
            floats = calls = 0
        forwards, backwards = (h + 3, h + 1) if whole else (h + 2, h)
        for step in steps:
            last = step["last"]
            assert (last["floats"], last["calls"]) == (floats, calls)
            assert (last["forwards"], last["backwards"]) == (forwards, backwards)
            assert (len(step["backwards"]), sum(step["backwards"])) == (forwards, backwards)
            if size == 1:
                assert step["traffic"] == {}
            else:
                width = 8 if dtype == "torch.float64" else 4
                assert step["traffic"] == {"all_reduce": (calls, width * floats)}


@pytest.mark.parametrize(("norm", "expected", "predicted"), [
    # Mean slope (3, 4). 2-norm: two steps of Δ/2 along it are summed to one of length Δ = ½.
    ("l2", [-0.3, -0.4], 2.5),
    # ∞-norm: two steps of Δ are averaged, and the radius keeps its unit.
    ("linf", [-0.5, -0.5], 3.5),
])
def test_steps_and_reductions_are_combined_alike(on_ranks, norm, expected, predicted):
    for theta, last in on_ranks(linear, 2, norm):
        assert theta == pytest.approx(expected, rel=1e-14)
        assert last["predicted_reduction"] == pytest.approx(predicted, rel=1e-14)
        assert last["rho"] == pytest.approx(1.0, rel=1e-14)
        assert last["radius"] == 1.0


def test_batch_norm_buffers_are_averaged_once_per_step(on_ranks):
    first, second = on_ranks(batch_norm, 2)
    n = len(flat(network(batch_norm=True)))
    for one, other in zip(first, second, strict=True):
        assert one["hash"] == other["hash"]
        for buffer, expected in zip(one["buffers"], one["expected"], strict=True):
            np.testing.assert_allclose(buffer, expected, rtol=1e-6, atol=1e-7)
        # Mean and variance of six features travel with the gradient.
        assert (one["floats"], one["calls"]) == (3 * n + 4 + 12, 4)
    assert {answer for step in first for answer in step["accepted"]} == {True, False}


def test_a_loss_that_is_not_finite_on_one_rank_is_answered_by_all_alike(on_ranks):
    results = on_ranks(not_finite, 2)
    for call, cells in enumerate(zip(*results, strict=True), 1):
        raised, before, after, last, finally_ = cells[0]
        assert {cell[2] for cell in cells} == {after}
        assert {cell[4] for cell in cells} == {finally_}
        assert {repr(cell[3]) for cell in cells} == {repr(last)}  # NaN is not equal to itself
        if call == 1:  # the pass at the iterate
            assert all("loss at the current iterate" in cell[0] for cell in cells)
            assert after == before
        else:
            assert raised is None
        if call == 5:  # the judgement, after three local passes
            assert last["rho"] == -math.inf
            assert last["accepted"] is False
        if call == 6:  # the global pass
            assert last["global_rho"] == -math.inf
            assert last["global_accepted"] is False


def test_a_process_group_keeps_to_itself(on_ranks):
    hashes, calls = zip(*on_ranks(halves, 4), strict=True)
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    assert calls == (4, 4, 4, 4)
