"""The published APTS on real ranks: weights by sample count, faults, what solvers exchange."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from bench_apts.meters.comm import CollectiveCounter
from bench_apts.optimizers.apts import APTS, RankError
from bench_apts.optimizers.presets import SOLVERS

SAMPLES = 30
SHARES = {2: [(20, 10), (30, 0), (7, 23)], 3: [(10, 15, 5), (0, 29, 1)]}


class Boom(Exception):
    pass


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fingerprint(model):
    return hashlib.sha256(flat(model).numpy().tobytes()).hexdigest()


class Trained:
    """One rank's network; ``disturb(call, losses)`` may do anything."""

    def __init__(self, place, reduction="none", **settings):
        self.model, (inputs, targets) = network(), data()
        self.place, self.inputs, self.targets = place, inputs, targets
        self.reduction = reduction
        self.optimizer = APTS(self.model.parameters(), **{"radius": 0.1} | settings)
        self.calls = 0
        self.disturb = lambda call, losses: losses

    def closure(self, backward):
        self.calls += 1
        losses = nn.functional.cross_entropy(
            self.model(self.inputs[self.place]), self.targets[self.place],
            reduction=self.reduction)
        if backward:
            losses.mean().backward()
        return self.disturb(self.calls, losses.detach())

    def step(self):
        self.calls = 0
        return self.optimizer.step(self.closure).item()


def shares(counts):
    ends = np.cumsum([0, *counts])
    return [slice(*pair) for pair in itertools.pairwise(ends)]


# --- unequal shards -----------------------------------------------------------------------------


def weighted(ranks, counts):
    """Losses and iterates with shards of these sizes, with and without a local phase."""
    reported = []
    for iterations in (0, 3):
        for norm in ("l2", "linf"):
            net = Trained(shares(counts)[ranks.rank], local_iterations=iterations, norm=norm)
            steps = []
            for _ in range(4):
                loss = net.step()
                steps.append((loss, net.optimizer.last["floats"], net.optimizer.last["calls"],
                              net.calls))
            reported.append((iterations, norm, steps, flat(net.model).numpy(),
                         net.optimizer.last["loss"]))
    return reported


@pytest.mark.parametrize("counts", [c for size in SHARES.values() for c in size], ids=str)
def test_the_mean_is_over_all_samples_whatever_the_shards(on_ranks, counts):
    n, size = len(flat(network())), len(counts)
    results = on_ranks(weighted, size, counts)
    for cells in zip(*results, strict=True):
        iterations, norm, steps, theta, loss = cells[0]
        for cell in cells[1:]:
            assert cell[2] == steps
            assert np.array_equal(cell[3], theta)
        model, (inputs, targets) = network(), data()
        assert steps[0][0] == pytest.approx(
            nn.functional.cross_entropy(model(inputs), targets).item(), rel=1e-12)
        if iterations == 0:  # without subdomains the shards make no difference at all
            alone = Trained(slice(0, SAMPLES), local_iterations=0, norm=norm)
            for reported, *_ in steps:
                assert reported == pytest.approx(alone.step(), rel=1e-10)
            np.testing.assert_allclose(theta, flat(alone.model).numpy(), rtol=0, atol=1e-10)
        nn.utils.vector_to_parameters(torch.from_numpy(theta), model.parameters())
        assert loss == pytest.approx(
            nn.functional.cross_entropy(model(inputs), targets).item(), rel=1e-10)
        floats, calls, passes = (3 * n + 4, 4, 6) if iterations else (n + 2, 2, 2)
        # The counts are sent once, in a small message of its own after the first pass, which
        # is repeated; then never again.
        assert [step[1:] for step in steps] == (
            [(floats + n + 1 + 1 + 2 * size, calls + 2, passes + 1)]
            + [(floats, calls, passes)] * 3)


def changing(ranks):
    """Shards that change from step to step, against one process over all of them."""
    net = Trained(None, local_iterations=0)
    losses = []
    for counts in [(15, 15), (15, 15), (20, 10), (5, 5), (5, 20), (5, 20), (0, 9)]:
        net.place = shares(counts)[ranks.rank]
        losses.append((net.step(), net.optimizer.last["calls"]))
    return losses, flat(net.model).numpy()


def test_shards_may_change_from_step_to_step(on_ranks):
    (losses, theta), (others, also) = on_ranks(changing, 2)
    assert losses == others
    assert np.array_equal(theta, also)
    alone = Trained(None, local_iterations=0)
    for (loss, calls), (count, reported) in zip(
            losses, [(30, 4), (30, 2), (30, 5), (10, 5), (25, 5), (25, 2), (9, 5)], strict=True):
        alone.place = slice(0, count)
        assert loss == pytest.approx(alone.step(), rel=1e-10)
        assert calls == reported
    np.testing.assert_allclose(theta, flat(alone.model).numpy(), rtol=0, atol=1e-10)


# --- faults -------------------------------------------------------------------------------------


def outcome(net):
    try:
        net.step()
        raised = None
    except Exception as error:
        raised = type(error).__name__, str(error), type(error.__cause__).__name__
    dist.barrier()  # nobody is left in a collective
    return raised, fingerprint(net.model), repr(net.optimizer.last)


def failing(ranks, what, iterations, reduction):
    """One rank goes wrong at each call in turn; then all go on."""
    reported = []
    for call in range(1, (iterations or -1) + 4):
        for culprit in range(ranks.size):
            net = Trained(shares([15, 15])[ranks.rank], reduction, local_iterations=iterations)
            net.step()
            before = fingerprint(net.model)
            if ranks.rank == culprit:
                net.disturb = lambda number, losses, call=call, model=net.model: (
                    what_happens(what, losses, model) if number == call else losses)
            result = outcome(net)
            net.disturb = lambda number, losses: losses
            after = outcome(net)
            reported.append((call, culprit, before, result, after))
    return reported


def what_happens(what, losses, model):
    if what == "exception":
        raise Boom("on purpose")
    if what == "nan":
        return torch.full_like(losses, math.nan)
    if what == "nan gradient":
        next(model.parameters()).grad.view(-1)[0] = math.nan
    if what == "count":
        return losses[:-1]
    return losses


@pytest.mark.parametrize(("what", "reduction"), [
    ("exception", "none"), ("exception", "mean"), ("nan", "none"), ("nan gradient", "mean"),
    ("count", "none")])
@pytest.mark.parametrize("iterations", [0, 2])
def test_one_ranks_fault_is_answered_by_all_alike(on_ranks, what, reduction, iterations):
    results = on_ranks(failing, 2, what, iterations, reduction)
    for cells in zip(*results, strict=True):
        call, culprit, before, result, after = cells[0]
        where = f"call {call}, rank {culprit}"
        for rank, cell in enumerate(cells):
            raised = cell[3][0]
            if raised:
                assert raised[:2] == result[0][:2], where
                if what == "exception":
                    assert (raised[2] == "Boom") == (rank == culprit), where
        assert len({cell[3][1:] for cell in cells}) == 1, where
        assert len({cell[4] for cell in cells}) == 1, where
        assert after[0] is None, where
        if what == "exception" or (what == "count" and call > 1):
            assert result[0][:2] == ("RankError", f"the closure failed on rank {culprit}"), where
        elif call == 1 and what.startswith("nan"):
            assert result[0][0] == "FloatingPointError", where
            assert result[0][1].endswith(f"rank {culprit}"), where
        elif what == "nan":
            assert result[0] is None, where
        if call == 1 and what != "count":
            assert result[1] == before, where


def careful(ranks, what, settings):
    """All closures refuse parameters that are not finite, while one rank's first call fails."""
    net = Trained(shares([15, 15])[ranks.rank], **settings)
    net.step()
    radius, before = net.optimizer.radius, fingerprint(net.model)

    def disturb(number, losses):
        if not flat(net.model).isfinite().all():
            raise Boom("the parameters are not finite")
        return what_happens(what, losses, net.model) if number == ranks.rank == 1 else losses

    net.disturb = disturb
    result = outcome(net)
    return result[0][:2], fingerprint(net.model) == before, net.optimizer.radius == radius


@pytest.mark.parametrize("what", ["exception", "nan", "nan gradient"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("consistency", ["gradient", "value"])
def test_an_unsound_iteration_stays_where_it_began(on_ranks, what, solver, consistency):
    settings = {"solver": solver, "global_solver": solver, "consistency": consistency}
    reported, *others = on_ranks(careful, 2, what, settings)
    assert all(other == reported for other in others)
    assert reported == (("RankError", "the closure failed on rank 1") if what == "exception" else (
        "FloatingPointError", "the loss at the current iterate or its gradient is not finite on "
        "rank 1"), True, True)


def first_call(ranks):
    """The very first call fails: nobody knows yet what the others will send."""
    net = Trained(shares([15, 15])[ranks.rank])
    if ranks.rank == 0:
        net.disturb = lambda number, losses: what_happens("exception", losses, net.model)
    return outcome(net)[0]


def test_a_fault_in_the_very_first_call(on_ranks):
    one, other = on_ranks(first_call, 2)
    assert one == ("RankError", "the closure failed on rank 0", "Boom")
    assert other == ("RankError", "the closure failed on rank 0", "NoneType")


def nothing_there(ranks):
    net = Trained(slice(0, 0))
    empty = outcome(net)
    theta = nn.Parameter(torch.zeros(3))
    opt = APTS([theta])

    def closure(backward):
        loss = (0 * theta).sum() + 1
        if backward:
            loss.backward()
        return loss.detach()

    opt.step(closure)
    return empty[0], theta.tolist(), opt.last["accepted"], opt.last["global_accepted"]


@pytest.mark.parametrize("size", [1, 2])
def test_no_samples_at_all_and_a_gradient_of_zero(on_ranks, size):
    for empty, theta, *accepted in on_ranks(nothing_there, size):
        assert empty[:2] == ("ValueError", "no rank has a sample")
        assert theta == [0, 0, 0]
        assert accepted == [False, False]


def test_alone_the_exception_is_the_closures_own():
    net = Trained(slice(0, SAMPLES))
    before = fingerprint(net.model)
    for call in (1, 2, 7):
        net.disturb = lambda number, losses, call=call: (
            what_happens("exception", losses, net.model) if number == call else losses)
        with pytest.raises(Boom, match="on purpose"):
            net.step()
        if call < 7:
            assert fingerprint(net.model) == before
    net.disturb = lambda number, losses: losses
    net.step()
    assert issubclass(RankError, RuntimeError)


# --- solvers ------------------------------------------------------------------------------------


def solved(ranks):
    """Every pair of solvers: replicas, floats, passes, and whether the local gradient agrees."""
    reported = []
    for solver in SOLVERS:
        for global_solver in SOLVERS:
            for norm, iterations in (("l2", 3), ("linf", 2), ("l2", 0)):
                net = Trained(shares([15, 15])[ranks.rank], "mean", solver=solver, norm=norm,
                              global_solver=global_solver, local_iterations=iterations)
                meter = CollectiveCounter()
                if ranks.meter.counting:
                    meter.watch(dist.group.WORLD)
                steps = []
                for number in range(5):
                    meter.phase, before = str(number), flat(net.model)
                    radius = net.optimizer.radius
                    loss = net.step()
                    moved = flat(net.model) - before
                    traffic = meter.snapshot().get(meter.phase, {})
                    steps.append((loss, fingerprint(net.model), dict(net.optimizer.last),
                                  {k: (t.calls, t.payload_bytes) for k, t in traffic.items()},
                                  moved.numpy(), radius))
                reported.append((solver, global_solver, norm, iterations, steps))
    return reported


def test_solvers_keep_replicas_together_and_send_what_the_table_says(on_ranks):
    n = len(flat(network()))
    for one, other in zip(*on_ranks(solved, 2), strict=True):
        solver, global_solver, norm, iterations, steps = one
        where = f"{solver}, {global_solver}, {norm}, H = {iterations}"
        losses = [step[0] for step in steps]
        assert losses == sorted(losses, reverse=True), where
        assert losses[-1] < losses[0], where
        for mine, others in zip(steps, other[4], strict=True):
            assert mine[:4] == others[:4], where
            last = mine[2]
            if iterations:
                floats, calls = 3 * n + 4, 4
                passes = iterations + 3, iterations + 1
            else:
                more = global_solver == "l-sr1"
                floats, calls, passes = (2 * n + 2 if more else n + 2), 2, (2, 1 + more)
            assert (last["forwards"], last["backwards"]) == passes, where
            assert (last["floats"], last["calls"]) == (floats, calls), where
            assert mine[3] in ({}, {"all_reduce": (calls, 8 * floats)}), where
            order = 2 if norm == "l2" else np.inf
            assert np.linalg.norm(mine[4], order) <= 3 * mine[5] * (1 + 1e-9), where


def capped(ranks, solver):
    """The combined step alone, from shards that pull the same way."""
    theta = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    opt = APTS([theta], radius=0.1, solver=solver, global_pass=False, local_iterations=5)
    goal = torch.tensor([9.0, 9.0, -9.0, 0.1 * ranks.rank], dtype=torch.float64)
    reported = []

    def closure(backward):
        loss = (theta - goal).square().sum()
        if backward:
            loss.backward()
        return loss.detach()

    for _ in range(5):
        before, radius = theta.detach().clone(), opt.radius
        opt.step(closure)
        reported.append((radius, torch.linalg.vector_norm(theta.detach() - before).item()))
    return reported


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_sum_of_local_steps_is_capped_by_the_radius(on_ranks, solver):
    for reported in on_ranks(capped, 3, solver):
        assert max(length / radius for radius, length in reported) == pytest.approx(1, rel=1e-3)
        for radius, length in reported:
            assert length <= radius * (1 + 1e-9)
