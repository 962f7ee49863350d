"""Minibatches whose shares overlap, and that grow from epoch to epoch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.contract import Sampling
from bench_apts.core.errors import UserError
from bench_apts.trial.loader import Order


def first(order, count, batch, rank, ranks, sampling):
    return list(itertools.islice(order.slices(batch, rank, ranks, sampling), count))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.integers(1, 20), st.sampled_from([0.0, 0.05, 0.33, 0.9]),
       st.integers(0, 2**31))
def test_neighbours_share_the_beginning_of_the_next_ones_samples(ranks, share, overlap, seed):
    order, batch = Order(200, seed), ranks * share
    plain = [first(order, 4, batch, rank, ranks, None) for rank in range(ranks)]
    wide = [first(order, 4, batch, rank, ranks, Sampling(overlap)) for rank in range(ranks)]
    more = round(overlap * share)
    for step in range(4):
        for rank in range(ranks):
            following = plain[(rank + 1) % ranks][step][:more]
            assert torch.equal(wide[rank][step], torch.cat([plain[rank][step], following]))


@pytest.mark.parametrize("overlap", [1.0, 1.5, 2.0, 7.0])
def test_more_than_one_neighbour_may_be_shared_up_to_the_whole_minibatch(overlap):
    order, ranks = Order(100, 5), 3
    plain = [first(order, 3, 12, rank, ranks, None) for rank in range(ranks)]
    for rank in range(ranks):
        wide = first(order, 3, 12, rank, ranks, Sampling(overlap))
        for step in range(3):
            around = torch.cat([plain[(rank + i) % ranks][step] for i in range(ranks)])
            assert torch.equal(wide[step], around[: min(12, 4 + round(4 * overlap))])


def test_alone_nothing_overlaps():
    order = Order(50, 1)
    for one, other in zip(first(order, 9, 8, 0, 1, Sampling(0.5)), first(order, 9, 8, 0, 1, None),
                          strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("ranks", "sizes"), [
    # 100 samples, from 20 by a factor of 1.5 per epoch, at most an epoch, shared evenly.
    (1, [20] * 5 + [30] * 4 + [45] * 2 + [67] * 2 + [100] * 3),
    (3, [18] * 6 + [27] * 4 + [39] * 3 + [57] * 2 + [84] + [99] * 3),
])
def test_batches_grow_after_each_epoch(ranks, sizes):
    order = Order(100, 3)
    parts = [first(order, len(sizes), sizes[0], rank, ranks, Sampling(growth=1.5))
             for rank in range(ranks)]
    assert [sum(map(len, batch)) for batch in zip(*parts, strict=True)] == sizes
    seen = torch.cat([torch.cat(batch) for batch in zip(*parts, strict=True)])
    for epoch in range(2):  # still one permutation after another, without a gap
        assert sorted(seen[100 * epoch : 100 * (epoch + 1)].tolist()) == list(range(100))


@pytest.mark.parametrize("wrong", [
    {"overlap": -0.1}, {"overlap": float("inf")}, {"growth": 0.9}, {"growth": float("inf")},
    {"growth": float("nan")}, {"overlap": float("nan")}])
def test_sampling_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UserError, match="expected a number"):
        Sampling(**wrong)
