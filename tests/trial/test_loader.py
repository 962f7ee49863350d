"""Batches: the same samples in the same order for every optimizer and N; shares that overlap,
minibatches that grow, and samples divided among the ranks by label.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.contract import Sampling
from bench_apts.core.errors import UserError
from bench_apts.suites.generated import derived
from bench_apts.trial.loader import Conversion, Order, Resident

CPU = torch.device("cpu")
LABELS = st.lists(st.integers(0, 4), min_size=12, max_size=80).map(np.array)


def first(order, count, batch, rank=0, ranks=1, sampling=None):
    return list(itertools.islice(order.slices(batch, rank, ranks, sampling), count))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.sampled_from([1, 2, 3, 4, 8]),
       st.integers(1, 40))
def test_all_ranks_together_see_the_batches_of_one_rank(samples, seed, ranks, share):
    order = Order(samples, seed)
    whole = first(order, 6, ranks * share)
    parts = [first(Order(samples, seed), 6, ranks * share, rank, ranks) for rank in range(ranks)]
    for step in range(6):
        slices = [parts[rank][step] for rank in range(ranks)]
        assert {len(s) for s in slices} == {share}
        assert torch.equal(torch.cat(slices), whole[step])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(0, 2**63 - 1), st.integers(1, 64))
def test_epochs_are_permutations_without_a_gap(samples, seed, batch):
    order = Order(samples, seed)
    batches = first(order, -(-3 * samples // batch), batch)
    seen = torch.cat(batches)[: 3 * samples].reshape(3, samples)
    for number, epoch in enumerate(seen):
        assert sorted(epoch.tolist()) == list(range(samples))
        assert torch.equal(epoch, order.epoch(number))


def test_indices_are_on_the_device_before_a_step_asks_for_them():
    order = Order(100, 3)
    slices = order.slices(30, 1, 2, device="meta")
    assert [(s.device.type, len(s)) for s in itertools.islice(slices, 12)] == [("meta", 15)] * 12


def test_epochs_and_seeds_differ():
    orders = [Order(1000, 5).epoch(0), Order(1000, 5).epoch(1), Order(1000, 77).epoch(0)]
    for one, two in itertools.combinations(orders, 2):
        assert not torch.equal(one, two)
    assert Order(1000, 5).sha256() == Order(1000, 5).sha256() != Order(1000, 77).sha256()


def test_the_order_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first(Order(100, 3), 5, 64)
    assert torch.equal(torch.rand(3), expected)


def resident(inputs, targets, *conversion):
    return Resident(inputs, targets, Conversion(inputs, targets, *conversion))


def test_images_are_normalised_by_channel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.2, 0.1)
    split = resident(images, np.arange(5), mean, std, 1 / 255, CPU)
    inputs, targets = split.take(torch.tensor([3, 0]))
    expected = np.empty((2, 3, 4, 4))
    for i, sample in enumerate((3, 0)):
        for channel in range(3):
            expected[i, channel] = (images[sample, channel] / 255 - mean[channel]) / std[channel]
    assert inputs.dtype == torch.float32
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert targets.tolist() == [3, 0]
    assert len(split) == 5


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 3, 3)])
def test_one_mean_serves_all_features(shape):
    values = np.random.default_rng(1).random(shape, dtype=np.float32)
    split = resident(values, np.arange(4), (0.3,), (2.0,), 10.0, CPU)
    inputs, _ = split.take(torch.arange(4))
    np.testing.assert_allclose(inputs.numpy(), (values * 10 - 0.3) / 2, rtol=1e-5, atol=1e-6)


def test_taking_leaves_the_stored_samples_as_they_are():
    values = np.ones((3, 2), dtype=np.float32)
    split = resident(values, np.arange(3), (0.5,), (0.5,), 1.0, CPU)
    for _ in range(2):
        inputs, _ = split.take(torch.tensor([0, 0, 1]))
        assert inputs.tolist() == [[1.0, 1.0]] * 3
        inputs.zero_()


def test_images_lie_in_memory_as_asked_for():
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    arguments = (images, np.array([0, 1]), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 1 / 255,
                 torch.device("cpu"))
    batches = [resident(*arguments, memory_format).take(torch.tensor([1, 0])).inputs
               for memory_format in (torch.contiguous_format, torch.channels_last)]
    assert batches[0].is_contiguous()
    assert batches[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*batches)


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


def drawn(order, rank, ranks, share, count, sampling=None):
    """Return what a rank draws in so many batches."""
    return first(order, count, ranks * share, rank, ranks, sampling)


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
