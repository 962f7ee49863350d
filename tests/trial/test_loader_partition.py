"""Training samples divided among the ranks by label: each rank draws from its own."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.contract import Sampling
from bench_apts.core.errors import UserError
from bench_apts.suites.generated import derived
from bench_apts.trial.loader import Order

LABELS = st.lists(st.integers(0, 4), min_size=12, max_size=80).map(np.array)


def drawn(order, rank, ranks, share, count, sampling=None):
    """Return what a rank draws in so many batches."""
    slices = order.slices(ranks * share, rank, ranks, sampling)
    return list(itertools.islice(slices, count))


@settings(deadline=None, max_examples=40)
@given(LABELS, st.integers(1, 6), st.sampled_from([0.0, 0.3, 10.0]), st.integers(0, 2**40),
       st.integers(1, 9))
def test_each_rank_draws_all_of_its_own_samples_once_an_epoch(
        labels, ranks, concentration, seed, share):
    owners = torch.from_numpy(derived.owners(labels, ranks, concentration))
    order, again = (Order(len(labels), seed, owners) for _ in range(2))
    seen = []
    for rank in range(ranks):
        mine = (owners == rank).nonzero().flatten().tolist()
        assert len(labels) // ranks <= len(mine) <= -(-len(labels) // ranks)
        batches = drawn(order, rank, ranks, share, 2 * -(-len(mine) // share))
        assert {len(batch) for batch in batches} == {share}
        stream = torch.cat(batches).tolist()
        for epoch in (0, 1):
            part = stream[epoch * len(mine):(epoch + 1) * len(mine)]
            assert sorted(part) == mine
            # In the order in which they stand in the permutation that undivided samples have.
            whole = Order(len(labels), seed).epoch(epoch).tolist()
            assert part == [sample for sample in whole if sample in set(mine)]
        seen += mine
        assert all(map(torch.equal, batches, drawn(again, rank, ranks, share, len(batches))))
    assert sorted(seen) == list(range(len(labels)))  # each sample has one rank


@settings(deadline=None, max_examples=20)
@given(LABELS, st.integers(0, 2**40), st.integers(1, 30))
def test_one_rank_draws_the_ordinary_data(labels, seed, batch):
    divided = Order(len(labels), seed, torch.from_numpy(derived.owners(labels, 1)))
    plain = Order(len(labels), seed)
    assert all(map(torch.equal, drawn(divided, 0, 1, batch, 9), drawn(plain, 0, 1, batch, 9)))
    assert divided.sha256() == plain.sha256()


def test_sorted_parts_hold_few_classes_and_large_concentrations_many():
    labels = np.arange(400) % 8

    def classes(concentration):
        owners = derived.owners(labels, 4, concentration)
        return [len(set(labels[owners == rank].tolist())) for rank in range(4)]

    assert classes(0.0) == [2] * 4
    assert classes(1e6) == [8] * 4
    owners = derived.owners(labels, 4)
    assert [sorted(set(labels[owners == rank].tolist())) for rank in range(4)] == [
        [0, 1], [2, 3], [4, 5], [6, 7]]


def test_minibatches_grow_on_all_ranks_at_once():
    # 103 samples, from 30 by a factor of 1.5 per epoch; the ranks' parts differ in size.
    labels = np.arange(103) % 5
    owners = torch.from_numpy(derived.owners(labels, 3))
    parts = [drawn(Order(103, 7, owners), rank, 3, 10, 12, Sampling(growth=1.5))
             for rank in range(3)]
    sizes = [[len(batch) for batch in part] for part in parts]
    assert sizes[0] == sizes[1] == sizes[2] == [10] * 4 + [15] * 2 + [22] * 2 + [33] + [34] * 3
    for rank, part in enumerate(parts):
        assert (owners[torch.cat(part)] == rank).all()


def test_an_overlap_and_targets_without_classes_are_refused():
    order = Order(20, 0, torch.from_numpy(derived.owners(np.arange(20) % 2, 2)))
    with pytest.raises(UserError, match="overlap=0"):
        next(order.slices(4, 0, 2, Sampling(overlap=0.5)))
    with pytest.raises(UserError, match="classes"):
        derived.owners(np.zeros((4, 2)), 2)
    with pytest.raises(UserError, match="5"):
        derived.owners(np.zeros(4, np.int64), 5)
