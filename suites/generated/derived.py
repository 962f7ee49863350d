"""Data sets made of known ones: images with added noise, classes of unequal sizes or shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.configuration import require_at_least, require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites import data
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Pair = tuple["NDArray[np.float32]", "NDArray[np.float32]"]


def denoising(train: NDArray[np.uint8], test: NDArray[np.uint8], noise: float = 0.5, seed: int = 0
              ) -> GeneratedSplits:
    """Return noisy images and clean ones.

    Args:
        train: Training images, uint8 (n, channels, height, width).
        test: Test images, likewise.
        noise: The standard deviation of the noise, independent for each pixel; white is 1.
        seed: Determines the noise.

    Returns:
        Inputs and targets float32 (n, channels, height, width): targets in [0, 1], inputs not
        clipped. The metric is the mean square error. ``baseline`` is that of the training images'
        mean image on the test images. The floor is not known; returning the input has noise**2.

    Raises:
        UserError: Images are not uint8, or ``noise`` is negative.
    """
    require_at_least("data 'denoising'", 0, noise=noise)

    def add(name: str, images: NDArray[np.uint8]) -> Pair:
        if images.dtype != np.uint8:
            raise UserError(f"data 'denoising': the images' dtype is {images.dtype}, not uint8")
        targets = images.astype(np.float32) / np.float32(255)
        noisy = np.empty_like(targets)
        draws = PortableDraws(f"denoising {name}", seed)
        for image, clean in zip(noisy, targets, strict=True):
            image[:] = clean + noise * draws.normals(*clean.shape)
        return noisy, targets

    inputs, targets = add("train", train)
    test_inputs, test_targets = add("test", test)
    mean = targets.mean(axis=0, dtype=np.float64)
    return GeneratedSplits({"train": (inputs, targets), "test": (test_inputs, test_targets)},
                           None, float(np.square(test_targets - mean).mean()))


def noniid(targets: NDArray[np.int64], ranks: int, concentration: float = 0.0, seed: int = 0
           ) -> list[NDArray[np.int64]]:
    """Divide samples among ranks so that the classes are spread unevenly.

    Args:
        targets: The classes, int64 (n,), from 0.
        ranks: The number of shards.
        concentration: 0 sorts by class and cuts. Otherwise the shares of the classes in a shard
            follow a symmetric Dirichlet distribution of this parameter (Hsu et al. 2019, arXiv
            1909.06335), as far as samples are left: small values give shards of few classes,
            large values equal shares.
        seed: Determines which samples of a class are taken, and the shares.

    Returns:
        For each rank its indices, int64, in random order. Each sample is in one shard, and the
        sizes differ by at most one.

    Raises:
        UserError: The concentration is negative, or there are fewer samples than ranks.
    """
    require_at_least("data 'noniid'", 0, concentration=concentration)
    require_positive("data 'noniid'", ranks=ranks)
    if ranks > len(targets):
        raise UserError(f"data 'noniid': ranks = {ranks} are more than {len(targets)} samples")
    draws = PortableDraws("noniid", seed)
    shuffled = draws.orders(1, len(targets))[0]
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    if concentration:
        by_class = _dirichlet(by_class, targets, ranks, concentration, draws)
    return [shard[draws.orders(1, len(shard))[0]] for shard in np.array_split(by_class, ranks)]


def _dirichlet(by_class: NDArray[np.int64], targets: NDArray[np.int64], ranks: int,
               concentration: float, draws: PortableDraws) -> NDArray[np.int64]:
    """Return the samples in an order whose equal parts have classes of Dirichlet shares.

    Polya's urn: drawing a class with probability proportional to concentration + times drawn
    equals drawing from Dirichlet shares, and needs no logarithm.
    """
    left = np.bincount(targets)
    starts = np.cumsum(left) - left
    order: list[int] = []
    for part in np.array_split(by_class, ranks):
        urn = np.full(len(left), float(concentration))
        for uniform in draws.uniforms(len(part)).tolist():
            cumulated = np.cumsum(np.where(left > 0, urn, 0.0))
            chosen = int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))
            left[chosen] -= 1
            urn[chosen] += 1
            order.append(int(by_class[starts[chosen] + left[chosen]]))
    return np.array(order, np.int64)


def owners(targets: NDArray[np.int64], ranks: int, concentration: float = 0.0
           ) -> NDArray[np.int64]:
    """Return the rank of each sample, int64 (n,), as ``noniid`` divides them with seed 0.

    Raises:
        UserError: As ``noniid``, or the targets are not classes.
    """
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise UserError("key 'data.partition': targets are not classes, integers of the shape "
                        f"(n,), but {targets.dtype} of the shape {targets.shape}; leave it out")
    result = np.empty(len(targets), np.int64)
    for rank, shard in enumerate(noniid(targets, ranks, concentration)):
        result[shard] = rank
    return result


def longtail(targets: NDArray[np.int64], ratio: float = 20.0, seed: int = 0) -> NDArray[np.int64]:
    """Choose samples so that the sizes of the classes fall geometrically.

    As in Cui et al. 2019 (arXiv 1901.05555): class k of K keeps the size of the smallest class
    times ratio**(-k / (K - 1)), rounded, and at least one sample.

    Args:
        targets: The classes, int64 (n,), from 0.
        ratio: The size of the first class over that of the last.
        seed: Determines which samples remain.

    Returns:
        Sorted indices, int64.

    Raises:
        UserError: The ratio is less than 1.
    """
    require_at_least("data 'longtail'", 1, ratio=ratio)
    shuffled = PortableDraws("longtail", seed).orders(1, len(targets))[0]
    counts = np.bincount(targets)
    kept = [shuffled[targets[shuffled] == k][: max(1, round(
                int(counts.min()) * ratio ** (-k / max(1, len(counts) - 1))))]
            for k in range(len(counts))]
    return np.sort(np.concatenate(kept))


def noisy(name: str = "mnist", train: int = 10_000, test: int = 1_000, noise: float = 0.5,
          seed: int = 0, data_dir: Path | None = None, offline: bool = True) -> GeneratedSplits:
    """Return ``denoising`` of images of a known data set.

    Args:
        name: The data set; its inputs must be images.
        train: How many of its training images are drawn.
        test: How many of its test images are drawn.
        noise: The standard deviation of the noise; white is 1.
        seed: Determines the choice and the noise.
        data_dir: Where the user keeps data.
        offline: Whether a download is forbidden.

    Returns:
        As ``denoising``.

    Raises:
        UserError: The data set is not there, holds no images or too few of them, or a value
            is out of range.
    """
    require_positive("data 'noisy'", train=train, test=test)
    known = data.load(data.prepare(name, data_dir, offline).folder)
    chosen = []
    for part, images, number in (("train", known.train_inputs, train),
                                 ("test", known.test_inputs, test)):
        if number > len(images):
            raise UserError(f"data 'noisy': {part} = {number} are more than {len(images)} images "
                            f"of '{name}'")
        order = PortableDraws(f"noisy {part}", seed).orders(1, len(images))[0]
        chosen.append(np.asarray(images[np.sort(order[:number])]))
    return denoising(chosen[0], chosen[1], noise, seed)


def unbalanced(name: str = "digits", ratio: float = 20.0, validation: int = 0, seed: int = 0,
               data_dir: Path | None = None, offline: bool = True) -> GeneratedSplits:
    """Return a known data set whose training classes have unequal sizes, by ``longtail``.

    The validation and the test split stay as they are, so that all classes count alike there.

    Args:
        name: The data set.
        ratio: The size of the first class over that of the last.
        validation: How many training samples validate, chosen before others are left out by
            ``data.split``; 0 for no such split.
        seed: Determines which training samples remain.
        data_dir: Where the user keeps data.
        offline: Whether a download is forbidden.

    Returns:
        Inputs as in ``data.Dataset``, classes int64 (n,). The metric is the accuracy on the test
        split: ``baseline`` is that of always answering the first class, the largest one.

    Raises:
        UserError: The data set is not there, the ratio is less than 1, or ``validation`` leaves
            nothing to train on.
    """
    known = data.load(data.prepare(name, data_dir, offline).folder)
    left, held = np.arange(len(known.train_targets)), np.arange(0)
    if validation:
        left, held = data.split(known.train_targets, validation, name)
    kept = left[longtail(np.asarray(known.train_targets[left]), ratio, seed)]
    splits = {"train": kept, **({"validation": held} if validation else {})}
    return GeneratedSplits({
        **{part: (known.train_inputs[rows], known.train_targets[rows])
           for part, rows in splits.items()},
        "test": (np.asarray(known.test_inputs), np.asarray(known.test_targets)),
    }, None, float((known.test_targets == 0).mean()))
