"""Local-SGD-Adam: APTS-S without the trust region, by hand; its bytes against those of apts."""

import numpy as np
import pytest
import torch
from baseline_task import BATCH, Course
from torch import nn

from bench_apts.core.errors import UserError
from bench_apts.optimizers import adam, local_adam
from bench_apts.optimizers.trust_region import apts

PRELOAD = ["baseline_task"]
STEPS, LR = 30, 0.01
ROUNDS = {"longest_round": 4, "rounds_per_length": 2, "bits": 32}
LENGTHS = [1, 1, 2, 2, 4, 4, 4, 4, 4, 4]
PURE = {**ROUNDS, "sharing": 0.0}
FIXED = {**ROUNDS, "radius": LR, "judge": False}


def course(ranks, name, backend, pinned):
    """Weights, losses and traffic after each of the steps."""
    mine = Course(backend, ranks.rank, ranks.size, steps=STEPS, **pinned)
    rows = []
    for number in range(STEPS):
        ranks.meter.phase = f"{name} {number}"
        report = mine.step()
        traffic = ranks.meter.snapshot().get(ranks.meter.phase, {})
        rows.append((mine.weights(), report.agreed, "accepted" in report.diagnostics,
                     {name: (t.calls, t.payload_bytes) for name, t in traffic.items()}))
    return mine.n, rows


def all_courses(ranks):
    return {name: course(ranks, name, backend, pinned) for name, backend, pinned in (
        ("local", local_adam.backend, {**ROUNDS, "lr": LR}),
        ("pure", local_adam.backend, {**PURE, "lr": LR}),
        ("short", local_adam.backend, {"longest_round": 1, "bits": 32, "lr": LR}),
        ("fixed", apts, FIXED),
        ("apts", apts, {**ROUNDS, "search": "bracket"}))}


@pytest.fixture(scope="module")
def together(on_ranks):
    return on_ranks(all_courses, 2)


@pytest.fixture(scope="module")
def alone(on_ranks):
    return on_ranks(all_courses, 1)[0]


def factor(step):
    """Full length over the first half of the budget, then linearly to zero."""
    return min(1.0, 2 * (1 - (step + 1) / STEPS))


def by_hand(size):
    """Weights after each round: ``size`` copies of torch's Adam in this process, averaged."""
    courses = [Course(local_adam.backend, rank, size, lr=LR) for rank in range(size)]
    optimizers = [torch.optim.Adam(c.model.parameters(), lr=LR, betas=(0.9, 0.99))
                  for c in courses]
    rows, step = [], 0
    for length in LENGTHS:
        for _ in range(length):
            for mine in courses:
                inputs, targets = mine.batch()
                mine.model.zero_grad()
                nn.functional.cross_entropy(mine.model(inputs), targets).backward()
            if length == 1:  # every rank takes the same step, along the mean gradient
                average([[p.grad for p in c.model.parameters()] for c in courses])
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = LR * factor(step)
                optimizer.step()
            step += 1
        average([[p.data for p in c.model.parameters()] for c in courses])
        rows.append(courses[0].weights())
    return rows


def average(copies):
    for tensors in zip(*copies, strict=True):
        mean = torch.stack(tensors).mean(dim=0)
        for tensor in tensors:
            tensor.copy_(mean)


@pytest.mark.parametrize("size", [1, 2])
def test_ranks_take_steps_of_adam_and_average_their_weights(together, alone, size):
    ranks = [alone] if size == 1 else together
    ends = np.cumsum(LENGTHS)
    assert ends[-1] == STEPS
    for rank in ranks:
        _, rows = rank["pure"]
        assert [number for number, row in enumerate(rows, 1) if row[1]] == ends.tolist()
        for end, weights in zip(ends, by_hand(size), strict=True):
            np.testing.assert_allclose(rows[end - 1][0], weights, rtol=1e-4, atol=1e-6)


def test_rounds_of_one_step_do_not_depend_on_the_number_of_ranks(together, alone):
    one, two = (rank["short"][1][-1][0] for rank in (alone, together[0]))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    start = Course(local_adam.backend, lr=LR).weights()
    assert np.abs(one - start).max() > 0.05


def test_longer_rounds_depend_on_it(together, alone):
    one, two = (rank["pure"][1][-1][0] for rank in (alone, together[0]))
    assert np.abs(one - two).max() > 1e-3


def test_it_is_apts_with_a_fixed_radius_and_no_judgement(together):
    for rank in together:
        for mine, theirs in zip(rank["local"][1], rank["fixed"][1], strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])


def test_it_sends_what_apts_sends_without_the_six_scalars_of_a_test(together):
    for rank in together:
        n, mine = rank["local"]
        tests = 0
        for number, (ours, theirs) in enumerate(zip(mine, rank["apts"][1], strict=True)):
            _, agreed, judged, sent = ours
            assert not judged
            assert agreed == theirs[1]
            tests += theirs[2]
            if number:  # before the first round ranks also tell each other their counts
                assert sent == ({"all_reduce": (1, 4 * n)} if agreed else {})
                assert theirs[3] == ({"all_reduce": (1, 4 * (n + 6 * theirs[2]))} if agreed
                                     else {})
            else:
                assert sent == theirs[3]
        assert tests > 0


def test_alone_it_sends_nothing(alone):
    assert all(sent == {} for _, _, _, sent in alone["local"][1])


def test_batches_rounds_and_decays_are_those_of_apts():
    shared = set(local_adam.backend.hyperparameters) - {"lr"}
    assert shared == set(apts.hyperparameters) - {
        "radius", "start", "judge", "test_interval", "search"}
    ours, theirs = local_adam.backend.configure({}), apts.configure({"direction": "adam"})
    assert all(ours[name] == theirs[name] for name in shared)
    for ranks in (1, 2, 4, 16):
        assert (local_adam.backend.batch_size(BATCH, ours, ranks)
                == apts.batch_size(BATCH, theirs, ranks))


def test_its_learning_rate_is_tuned_over_the_range_of_adams():
    assert (local_adam.backend.searched()["lr"].search
            == adam.backend.searched()["lr"].search)
    assert set(local_adam.backend.searched()) == {"lr"}


@pytest.mark.parametrize("lr", [0.0, -0.1])
def test_a_learning_rate_that_would_switch_the_search_on_is_refused(lr):
    with pytest.raises(UserError, match="expected a number above 0"):
        Course(local_adam.backend, lr=lr)
