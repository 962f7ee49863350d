"""The protocol by which ranks weigh and agree, on simulated ranks: one thread each."""

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench_apts.optimizers.apts import RankError
from bench_apts.optimizers.apts.flat_problem import FlatBuffers
from bench_apts.optimizers.apts.rank_agreement import RankAgreement, RankGroup, average_round

N = 3
PATIENCE_S = 60


class Threads(RankGroup):
    """A rank whose all-reduces meet those of other threads, or time out."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.floats, self.calls = rank, size, 0, 0
        self._barrier, self._slots = shared

    def sum(self, message):
        self._slots[self.rank] = message.clone()
        self._barrier.wait(PATIENCE_S)
        total = torch.stack(self._slots).sum(dim=0)
        self._barrier.wait(PATIENCE_S)
        message.copy_(total)
        self.floats += message.numel()
        self.calls += 1


rounds = st.lists(st.fixed_dictionaries({
    "testing": st.booleans(),
    "failing": st.sampled_from([(), (), (), (0,), (1,), (0, 1)]),
    "counts": st.sampled_from([(16, 16, 16)] * 3 + [(0, 5, 11), (3, 0, 0), (0, 0, 0)]),
    "spoilt": st.sampled_from([None, None, 0, N - 1]),
}), min_size=1, max_size=8)


def one_rank(rank, size, shared, plan, buffers, results):
    theta = nn.Parameter(torch.zeros(N, dtype=torch.float64))
    statistics = [torch.zeros(2, dtype=torch.float64)] if buffers else []
    flat, ranks = FlatBuffers([theta], statistics, 6), Threads(rank, size, shared)
    agreement = RankAgreement(ranks, flat.values, presumed=0)
    for number, what in enumerate(plan):
        agreement.begin()
        agreement.count = what["counts"][rank]
        if rank in what["failing"]:
            agreement.fail(RuntimeError("here"))
        own = torch.arange(1.0, N + 1, dtype=torch.float64) * (10 * rank + number + 1)
        if rank == 0 and what["spoilt"] is not None:
            own[what["spoilt"]] = math.nan
        flat.payload.copy_(own)
        for statistic in statistics:
            statistic.fill_(rank)
        sums = torch.full((6,), float(rank), dtype=torch.float64) if what["testing"] else None
        floats, calls = ranks.floats, ranks.calls
        try:
            total = average_round(agreement, flat, sums)
        except (RankError, ValueError) as error:
            answer = type(error).__name__, str(error)
        else:
            answer = flat.payload.clone(), total, [s.clone() for s in statistics]
        results[rank].append((answer, own, ranks.floats - floats, ranks.calls - calls,
                           agreement.total / size))


@settings(deadline=None, max_examples=60)
@given(rounds, st.sampled_from([2, 3]), st.booleans())
def test_the_mean_is_weighted_and_all_ranks_hear_the_same(plan, size, buffers):
    results = [[] for _ in range(size)]
    shared = threading.Barrier(size), [None] * size
    threads = [threading.Thread(target=one_rank, args=(rank, size, shared, plan, buffers, results))
               for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    assert [len(rows) for rows in results] == [len(plan)] * size  # nobody hung
    known = None
    for what, *cells in zip(plan, *results, strict=True):
        counts = what["counts"][:size]
        failing = [rank for rank in what["failing"] if rank < size]
        assert len({cell[2:] for cell in cells}) == 1
        if failing:
            plural = "s" * (len(failing) > 1)
            names = ", ".join(map(str, failing))
            expected = "RankError", f"the closure failed on rank{plural} {names}"
            assert [cell[0] for cell in cells] == [expected] * size
            continue
        if not sum(counts):
            expected = "ValueError", "no rank has a sample"
            assert [cell[0] for cell in cells] == [expected] * size
            continue
        mean = sum(c * cell[1].nan_to_num(math.nan) for c, cell in zip(counts, cells, strict=True)
                   if c) / sum(counts)
        for (gradient, total, statistics), *_ in (cells):
            torch.testing.assert_close(gradient, mean, rtol=1e-12, atol=0, equal_nan=True)
            assert torch.equal(gradient.nan_to_num(7.0), cells[0][0][0].nan_to_num(7.0))
            assert total == pytest.approx([size * (size - 1) / 2] * 6 * what["testing"])
            for statistic in statistics:
                expected = sum(c * rank for rank, c in enumerate(counts)) / sum(counts)
                torch.testing.assert_close(statistic, torch.full_like(statistic, expected))
        assert cells[0][4] == pytest.approx(sum(counts) / size)
        # One message, and a small one only where somebody has something to tell.
        message = N + 8 if buffers else N + 6 * what["testing"]
        marked = known not in (None, counts) or bool(gradient[0].isnan())
        more = (known is None) + marked
        assert cells[0][2:4] == (message + more * (2 + size), 1 + more)
        known = counts
