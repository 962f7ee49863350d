"""APTS-S where something goes wrong on one rank: all answer alike, and training goes on."""

import itertools
import os
import signal
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from stochastic_task import Task
from torch import nn

from bench_apts.optimizers.apts import RankError

ROUNDS = {"rounds_per_length": 12, "longest_round": 4}


class Boom(Exception):
    pass


def boom(backward, losses):
    raise Boom("on purpose")


def boom_forward(backward, losses):
    """Fails only in a test, at the last accepted point."""
    return losses if backward else boom(backward, losses)


def shorter(backward, losses):
    """Has fewer losses at the last accepted point than at the new one."""
    return losses if backward else losses[:1]  # which would broadcast


def nothing(backward, losses):
    return losses


def to_round(task, length, testing, judge=True):
    """Steps up to the end of a round, the next one having ``length`` steps and a test or not."""
    for _ in range(400):
        agreed = task.step()["agreed"]
        state = task.optimizer.state_dict()["apts"]
        doublings = state["round"] // ROUNDS["rounds_per_length"]
        tests = judge and state["since_test"] >= (4 if state["search"]["searching"] else 8)
        if agreed and length == min(4, 1 << doublings) and tests == testing:
            return
    pytest.fail("no such round")


# --- exceptions ---------------------------------------------------------------------------------


SCENARIOS = [
    # H, a test at its start, local steps before the fault, the fault
    (1, False, 0, boom), (1, True, 0, boom), (1, True, 0, boom_forward), (1, True, 0, shorter),
    (2, False, 1, boom), (4, True, 0, boom_forward), (4, False, 0, boom), (4, True, 2, boom),
    (4, False, 3, boom),
]


def failing(ranks, batch_norm, judge):
    reported = []
    for length, testing, steps, fault in SCENARIOS:
        if testing and not judge:
            continue
        for culprit in range(ranks.size):
            task = Task(ranks.rank, batch_norm, judge=judge, **ROUNDS)
            to_round(task, length, testing, judge)
            kept = task.optimizer.state_dict()["apts"]
            here, buffers = task.weights(), [b.clone() for b in task.model.buffers()]
            raised, ended, calls = None, None, []
            for step in range(length):
                hit = ranks.rank == culprit and step >= steps
                task.disturb = fault if hit else nothing
                passes = task.optimizer._problem.forwards
                try:
                    task.step()
                except Exception as error:
                    cause = type(error.__cause__).__name__ if error.__cause__ else None
                    raised, ended = (type(error).__name__, str(error), cause), step
                calls.append(task.optimizer._problem.forwards - passes)
            task.disturb = nothing
            point = kept["anchor"] if judge else here
            saved = kept["anchor_buffers"] if judge else buffers
            same = torch.equal(task.weights(), point) and all(
                torch.equal(a, b) for a, b in zip(task.model.buffers(), saved, strict=True))
            digests, agreed = [task.digest()], 0
            while agreed < 6:
                if task.step()["agreed"]:
                    digests.append(task.digest())
                    agreed += 1
            processed = task.optimizer.state_dict()["apts"]["processed"]
            moved = not torch.equal(task.weights(), point)
            reported.append((culprit, raised, ended, calls, same, moved, digests, processed))
    return reported


@pytest.mark.parametrize(("size", "batch_norm", "judge"), [
    (2, True, True), (3, False, False)])
def test_an_exception_on_one_rank_is_raised_on_all_at_the_last_accepted_point(
        on_ranks, size, batch_norm, judge):
    scenarios = [s for s in SCENARIOS if judge or not s[1]]
    scenarios = [s for s in scenarios for _ in range(size)]
    results = on_ranks(failing, size, batch_norm, judge)
    for scenario, *cells in zip(scenarios, *results, strict=True):
        length, testing, steps, fault = scenario
        culprit = cells[0][0]
        for rank, (_, raised, ended, calls, same, moved, digests, processed) in enumerate(cells):
            assert same, scenario
            assert moved, scenario
            assert digests == cells[0][6], scenario
            assert processed == cells[0][7], scenario
            cause = "ValueError" if fault is shorter else "Boom"
            assert raised == ("RankError", f"the closure failed on rank {culprit}",
                              cause if rank == culprit else None), scenario
            assert ended == length - 1, scenario
            if rank == culprit:  # not called again within the round
                assert calls[steps + 1:] == [0] * (length - steps - 1), scenario
            else:
                assert calls == [1 + testing] + [1] * (length - 1), scenario


@pytest.mark.parametrize("fault", [boom, boom_forward])
def test_alone_the_exception_is_the_closures_own_and_comes_at_once(fault):
    task = Task(**ROUNDS)
    to_round(task, 4, True)
    anchor = task.optimizer.state_dict()["apts"]["anchor"]
    if fault is boom:
        task.step()
    task.disturb = fault
    with pytest.raises(Boom, match="on purpose"):
        task.step()
    assert torch.equal(task.weights(), anchor)
    task.disturb = nothing
    assert [task.step()["agreed"] for _ in range(8)] == [False, False, False, True] * 2


def test_an_interruption_in_a_test_leaves_the_last_accepted_point():
    def interrupt(backward, losses):
        if not backward:
            raise KeyboardInterrupt
        return losses

    task = Task(**ROUNDS)
    to_round(task, 4, True)
    anchor = task.optimizer.state_dict()["apts"]["anchor"]
    task.disturb = interrupt
    with pytest.raises(KeyboardInterrupt):
        task.step()
    assert torch.equal(task.weights(), anchor)


def beginning(ranks):
    """A fault in the very first call, and one that outlives a saved state."""
    task = Task(ranks.rank)
    task.disturb = boom if ranks.rank == 0 else nothing
    before = task.weights()
    with pytest.raises(RankError, match="rank 0"):
        task.step()
    first = torch.equal(task.weights(), before)
    task = Task(ranks.rank, **ROUNDS)
    to_round(task, 4, False)
    task.disturb = boom if ranks.rank == 1 else nothing
    task.step()
    other = Task(ranks.rank, **ROUNDS)
    other.model.load_state_dict(task.model.state_dict())
    other.optimizer.load_state_dict(task.optimizer.state_dict())
    other.step()
    other.step()
    with pytest.raises(RankError, match="rank 1") as caught:
        other.step()
    return first, str(caught.value.__cause__)


def test_a_fault_at_the_very_beginning_and_one_in_a_saved_state(on_ranks):
    assert on_ranks(beginning, 2) == [(True, "None"), (True, "Boom: on purpose")]


# --- shards of different sizes ------------------------------------------------------------------


SHARES = [(16, 16), (16, 16), (10, 20), (10, 20), (0, 7), (0, 7), (7, 0), (16, 16), (1, 30),
          (16, 16), (16, 16), (3, 16), (0, 0), (5, 2)]


def shares(longest):
    """A step for which nobody has a sample is one only within a round."""
    return [counts for counts in SHARES if longest > 1 or any(counts)]


def unequal(ranks, longest):
    task = Task(ranks.rank, dtype=torch.float64, judge=False, radius=0.01, rounds_per_length=2,
                longest_round=longest, samples=200, bits=32)
    calls = []
    for counts in shares(longest):
        task.size = counts[ranks.rank]
        last = task.step()
        calls.append((last["agreed"], last["calls"]))
    state = task.optimizer.state_dict()["apts"]
    return task.weights().numpy(), calls, state["processed"]


def rate_at(processed):
    """The radius, and from half of the 200 samples on linearly less."""
    return 0.01 * min(1.0, 2 * (1 - processed / 200))


def share(adam, parts, travel):
    """Half of each first moment becomes what the mean displacement says of all."""
    for (p, state), part in zip(adam.state.items(), parts, strict=True):
        steps = int(state["step"])
        spread = (state["exp_avg_sq"] / (1 - 0.99**steps)).sqrt() + 1e-8
        moment = -part.view_as(p) / travel * spread * (1 - 0.9**steps)
        state["exp_avg"].copy_((state["exp_avg"] + moment) / 2)


def simulated(longest):
    """The same with simulated ranks, each with an Adam of torch's own."""
    tasks = [Task(rank, dtype=torch.float64, samples=1) for rank in range(2)]
    adams = [torch.optim.Adam(t.model.parameters(), betas=(0.9, 0.99)) for t in tasks]
    done, processed, rate = 0, 0.0, 1.0
    point = tasks[0].weights()
    for number in itertools.count():
        length = min(longest, 1 << (number // 2))
        if done == len(shares(longest)):
            return point.numpy(), processed
        seen, ends, gradients = [], [], []
        rates = [rate_at(processed + (step + 1) * rate) for step in range(length)]
        for rank, (task, adam) in enumerate(zip(tasks, adams, strict=True)):
            nn.utils.vector_to_parameters(point.clone(), task.model.parameters())
            samples = 0
            for step in range(length):
                task.size = shares(longest)[done + step][rank]
                inputs, targets = task.batch()
                samples += task.size
                for p in task.model.parameters():
                    p.grad = torch.zeros_like(p)
                if task.size:
                    nn.functional.cross_entropy(task.model(inputs), targets).backward()
                    if length > 1:
                        adam.param_groups[0]["lr"] = rates[step]
                        adam.step()
            seen.append(samples)
            ends.append(task.weights())
            gradients.append(torch.cat([p.grad.flatten() for p in task.model.parameters()]))
        done += length
        processed += sum(seen) / 2
        rate = sum(seen) / 2 / length
        if length > 1:
            end = sum(c * end for c, end in zip(seen, ends, strict=True)) / sum(seen)
            sizes = [p.numel() for p in tasks[0].model.parameters()]
            for adam in adams:
                share(adam, (end - point).split(sizes), sum(rates))
            point = end
            continue
        mean = sum(c * g for c, g in zip(seen, gradients, strict=True)) / sum(seen)
        for task, adam in zip(tasks, adams, strict=True):
            nn.utils.vector_to_parameters(point.clone(), task.model.parameters())
            for p, part in zip(task.model.parameters(),
                               mean.split([p.numel() for p in task.model.parameters()]),
                               strict=True):
                p.grad = part.view_as(p).clone()
            adam.param_groups[0]["lr"] = rate_at(processed)
            adam.step()
        point = tasks[0].weights()


@pytest.mark.parametrize("longest", [1, 4])
def test_means_are_over_all_samples_whatever_the_shards(on_ranks, longest):
    (one, calls, processed), (other, also, same) = on_ranks(unequal, 2, longest)
    assert np.array_equal(one, other)
    assert (calls, processed) == (also, same)
    expected, spent = simulated(longest)
    assert processed == spent
    np.testing.assert_allclose(one, expected, rtol=0, atol=1e-12)
    if longest == 1:  # who has another number than before says so once
        reported = [True, *(a != b for a, b in itertools.pairwise(shares(1)))]
        assert calls == [(True, 1 + more) for more in reported]


def judged(ranks, counts):
    """Tests with shards that differ from rank to rank and from step to step."""
    task = Task(ranks.rank, batch_norm=False, samples=4000, **ROUNDS)
    rows = []
    for step in range(150):
        task.size = counts[ranks.rank] + (step % 3 == ranks.rank)
        last = task.step()
        state = task.optimizer.state_dict()["apts"]
        rows.append((last["radius"], last["agreed"], last.get("accepted"), state["processed"],
                     state["search"]["ended"], last["agreed"] and task.digest()))
    return rows


@pytest.mark.parametrize("counts", [(20, 3), (17, 0, 30)])
def test_all_ranks_decide_alike_whatever_the_shards(on_ranks, counts):
    first, *others = on_ranks(judged, len(counts), counts)
    assert all(rows == first for rows in others)
    assert {True} <= {row[2] for row in first}


def no_samples(ranks):
    task = Task(ranks.rank, **ROUNDS)
    task.size = 0
    reported = []
    for _ in range(2):
        with pytest.raises(ValueError, match="no rank has a sample"):
            task.step()
        task.size = 16
        to_round(task, 4, True)
        # A test without a sample says nothing, and the rest of the round counts.
        task.size = 0
        task.step()
        task.size = 16
        last = [task.step() for _ in range(3)][-1]
        reported.append((last["agreed"], "accepted" in last, task.digest()))
        task = Task(ranks.rank, **ROUNDS)
        task.step()
        task.size = 0
    return reported


@pytest.mark.parametrize("size", [1, 2])
def test_nobody_has_a_sample(on_ranks, size):
    results = on_ranks(no_samples, size)
    assert results[0] == results[-1]
    assert all(row[:2] == (True, False) for row in results[0])


# --- gradients of zero and of no number ----------------------------------------------------------


def still(ranks):
    theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))
    task = Task(ranks.rank)
    optimizer = type(task.optimizer)([theta], variant="stochastic", samples=1000)

    def closure(backward):
        losses = (0 * theta).sum() + torch.ones(4)
        if backward:
            losses.mean().backward()
        return losses.detach()

    lasts = [optimizer.step(closure).item() for _ in range(80)]
    return theta.tolist(), set(lasts), optimizer.radius > 0


@pytest.mark.parametrize("size", [1, 2])
def test_a_gradient_of_zero_moves_nothing(on_ranks, size):
    assert on_ranks(still, size) == [([1.0, -2.0, 0.0], {1.0}, True)] * size


def poisoned(ranks, element):
    """One rank's gradient is NaN in one element, outside of a test."""
    task = Task(ranks.rank, **ROUNDS)
    to_round(task, 4, False)
    kept = task.optimizer.state_dict()["apts"]["anchor"]

    def poison(backward, losses):
        weight = task.model[0].weight
        weight.grad = torch.zeros_like(weight)  # to which the backward pass adds
        weight.grad.view(-1)[element] = torch.nan
        return losses

    task.disturb = poison if ranks.rank == 0 else nothing
    task.step()
    task.disturb = nothing
    spoilt = False
    for _ in range(12):
        last = task.step()
        spoilt |= bool(task.weights().isnan().any())
        if "accepted" in last:
            break
    same = torch.equal(task.weights(), kept)
    for _ in range(8):
        task.step()
    return spoilt, last["accepted"], same, bool(task.weights().isfinite().all()), task.digest()


@pytest.mark.parametrize("element", [0, 5])
def test_a_gradient_that_is_not_finite_is_rejected_by_the_next_test(on_ranks, element):
    results = on_ranks(poisoned, 2, element)
    assert results[0] == results[1]
    assert results[0][:4] == (True, False, True, True)


# --- a rank that dies ---------------------------------------------------------------------------


TIMEOUT_S = 50
"""Of a collective: a slow rank is not a dead one."""


def dying(ranks, variant):
    group = dist.new_group(timeout=timedelta(seconds=TIMEOUT_S))
    task = Task(ranks.rank, group=group, variant=variant)
    for _ in range(3):
        task.step()
    before = task.weights()
    if ranks.rank == ranks.size - 1:
        def die(backward, losses):
            os.kill(os.getpid(), signal.SIGKILL)

        task.disturb = die
    with pytest.raises(RuntimeError):
        task.step()
    anchor = task.optimizer.state_dict()["apts"].get("anchor", before)
    return torch.equal(task.weights(), anchor)


@pytest.mark.parametrize("variant", ["stochastic", "paper"])
def test_a_rank_that_dies_is_an_error_for_the_others(on_ranks, variant):
    # They hear of it when the timeout ends at the latest.
    assert on_ranks(dying, 3, variant, timeout=4 * TIMEOUT_S, killed={2}) == [True, True, None]
