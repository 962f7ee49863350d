"""Batches: the same samples in the same order for every optimizer and every N."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.trial.loader import Conversion, Order, Resident

CPU = torch.device("cpu")


def first(order, count, batch, rank=0, ranks=1):
    return list(itertools.islice(order.slices(batch, rank, ranks), count))


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
