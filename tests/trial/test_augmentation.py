"""Augmentation: what happens to a sample depends on seed, epoch and sample alone."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.core.spec import Augment
from bench_apts.trial.augmentation import DRAWS, Augmentation, draws
from bench_apts.trial.loader import Conversion, Order, Resident

CPU = torch.device("cpu")
WHOLE = Augment(crop=2, flip=True, cutout=3)


def mixed(value):
    """SplitMix64 on Python's integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 10**9),
       st.sampled_from(DRAWS))
def test_draws_are_those_of_the_hash_in_exact_arithmetic(seed, epoch, sample, which):
    place = (DRAWS.index(which) << 48) + epoch
    expected = mixed((place + mixed((sample + mixed(seed)) % 2**64)) % 2**64) >> 33
    found = draws(seed, torch.tensor([epoch]), torch.tensor([sample]), which)
    assert found.tolist() == [expected]


def test_draws_are_evenly_spread_and_independent():
    samples = torch.arange(40_000)
    found = torch.stack([draws(seed, torch.full_like(samples, epoch), samples, which).double()
                         for seed, epoch, which in [(0, 0, "down"), (0, 0, "right"),
                                                    (0, 1, "down"), (1, 0, "down")]])
    # Standard errors: 1 / sqrt(12 n) of a mean, 1 / sqrt(n) of a correlation.
    assert torch.all((found.mean(1) / 2**31 - 0.5).abs() < 5 / (12 * 40_000) ** 0.5)
    assert (torch.corrcoef(found) - torch.eye(4)).abs().max() < 5 / 40_000 ** 0.5


def forced(monkeypatch, **values):
    """Has each kind of draw return one value of its range."""
    def below(self, number, which, epochs, samples):
        assert 0 <= values[which] < number
        return torch.full_like(samples, values[which])

    monkeypatch.setattr(Augmentation, "_below", below)


def changed(chosen, image, black=-1.0):
    """Augments one image of one channel."""
    image = torch.tensor(image, dtype=torch.float32)
    zero = torch.zeros(1, dtype=torch.int64)
    return Augmentation(chosen, 0, torch.tensor(black))(image[None, None], zero, zero)[0, 0]


IMAGE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(("down", "right", "flip", "expected"), [
    (1, 1, 0, IMAGE),
    (1, 1, 1, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
    (2, 1, 0, [[4, 5, 6], [7, 8, 9], [-1, -1, -1]]),
    (0, 0, 0, [[-1, -1, -1], [-1, 1, 2], [-1, 4, 5]]),
    # The moved image is mirrored, its black margin with it.
    (1, 2, 1, [[-1, 3, 2], [-1, 6, 5], [-1, 9, 8]]),
])
def test_a_small_image_is_moved_and_mirrored(monkeypatch, down, right, flip, expected):
    forced(monkeypatch, down=down, right=right, flip=flip)
    assert changed(Augment(crop=1, flip=True), IMAGE).tolist() == expected


@pytest.mark.parametrize(("side", "row", "column", "expected"), [
    (1, 1, 2, [[1, 2, 3], [4, 5, 0], [7, 8, 9]]),
    (2, 2, 2, [[1, 2, 3], [4, 0, 0], [7, 0, 0]]),
    (3, 0, 0, [[0, 0, 3], [0, 0, 6], [7, 8, 9]]),  # it reaches over the border
])
def test_a_small_image_gets_a_hole(monkeypatch, side, row, column, expected):
    forced(monkeypatch, row=row, column=column)
    assert changed(Augment(cutout=side), IMAGE).tolist() == expected


def split(shape=(12, 3, 8, 8), chosen=WHOLE, seed=5, memory_format=torch.contiguous_format,
          images=None, std=0.2):
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    channels = images.shape[1] if images.ndim == 4 else 1
    pair = images, np.arange(len(images))
    conversion = Conversion(*pair, (0.5,) * channels, (std,) * channels, 1 / 255, CPU,
                            memory_format)
    return Resident(*pair, conversion,
                    chosen and Augmentation(chosen, seed, conversion.black))


def seen(ranks, batch=6, steps=8, **options):
    """Returns the pixels of each sample in each epoch, from all ranks."""
    found, epochs = {}, {}
    for rank in range(ranks):
        order = Order(12, 3)
        numbered = list(itertools.islice(
            order.slices(batch, rank, ranks, numbered=True), steps))
        for draw, handed in zip(numbered, split(**options).draw(iter(numbered)), strict=True):
            for number, pixels, target in zip(draw, handed.inputs, handed.targets, strict=True):
                assert int(number) % 12 == int(target)
                found[int(number)] = pixels
                epochs.setdefault(int(target), []).append(pixels)
    return found, epochs


@pytest.mark.parametrize("shape", [(12, 3, 8, 8), (12, 8, 8)])
def test_a_sample_looks_alike_whatever_the_number_of_ranks_and_the_batch(shape):
    one, epochs = seen(1, shape=shape)
    for other, _ in (seen(2, shape=shape), seen(3, shape=shape), seen(1, 4, 12, shape=shape)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[number], other[number]) for number in one)
    # 48 draws are 4 epochs; what a sample looks like changes from one to the next.
    assert all(len(views) == 4 for views in epochs.values())
    assert sum(torch.equal(views[0], views[1]) for views in epochs.values()) <= 2


def test_the_seed_counts_and_evaluation_sees_the_images_as_they_are():
    one, other = seen(1)[0], seen(1, seed=6)[0]
    assert sum(torch.equal(one[number], other[number]) for number in one) <= 6
    plain = split(chosen=None)
    chunks = [torch.arange(7), torch.arange(7, 12)]
    for with_, without in zip(split().sweep(chunks), plain.sweep(chunks), strict=True):
        assert torch.equal(with_.inputs, without.inputs)


def test_pixels_outside_are_black_and_holes_grey():
    images = np.full((500, 1, 8, 8), 255, dtype=np.uint8)
    white, black = (1 - 0.5) / 0.25, (0 - 0.5) / 0.25
    moved = split(images=images, std=0.25, chosen=Augment(crop=2), seed=1)
    batch = next(moved.draw(iter([torch.arange(500)]))).inputs
    assert sorted(batch.unique().tolist()) == pytest.approx([black, white])
    # Moved by 0, 1 or 2 to either side: 5 of 5, 4 of 5 and so on keep a row.
    rows = (batch[:, 0] > 0).any(dim=2).float().mean(0)
    assert rows.tolist() == pytest.approx([3 / 5, 4 / 5, 1, 1, 1, 1, 4 / 5, 3 / 5], abs=0.1)


def test_images_stay_in_their_memory_format():
    draw = torch.arange(4)
    plain, last = (next(split(memory_format=kind).draw(iter([draw]))).inputs
                   for kind in (torch.contiguous_format, torch.channels_last))
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


def test_numbered_indices_carry_their_epoch():
    plain = Order(10, 4).slices(4, 1, 2)
    numbered = Order(10, 4).slices(4, 1, 2, numbered=True)
    found = torch.stack(list(itertools.islice(numbered, 10)))
    assert torch.equal(found % 10, torch.stack(list(itertools.islice(plain, 10))))
    assert (found // 10).flatten().tolist() == [0] * 4 + [1] * 6 + [2] * 4 + [3] * 6
