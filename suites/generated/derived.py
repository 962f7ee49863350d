"""Data sets made from the known ones of ``suites.sources`` by added noise or by choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.errors import UserError

from .. import data
from ..sizes import positive
from .denoising import denoising
from .draws import Draws, Splits
from .skew import longtail

if TYPE_CHECKING:
    from pathlib import Path


def noisy(
    name: str = "mnist",
    train: int = 10_000,
    test: int = 1_000,
    noise: float = 0.5,
    seed: int = 0,
    data_dir: Path | None = None,
    offline: bool = True,
) -> Splits:
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
    positive("data 'noisy'", train=train, test=test)
    known = data.load(data.prepare(name, data_dir, offline).folder)
    chosen = []
    for part, images, number in (("train", known.train_inputs, train),
                                 ("test", known.test_inputs, test)):
        if number > len(images):
            raise UserError(f"data 'noisy': {part} = {number} are more than {len(images)} images "
                            f"of '{name}'")
        order = Draws(f"noisy {part}", seed).orders(1, len(images))[0]
        chosen.append(np.asarray(images[np.sort(order[:number])]))
    return denoising(chosen[0], chosen[1], noise, seed)


def unbalanced(
    name: str = "digits",
    ratio: float = 20.0,
    validation: int = 0,
    seed: int = 0,
    data_dir: Path | None = None,
    offline: bool = True,
) -> Splits:
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
    return Splits({
        **{part: (known.train_inputs[rows], known.train_targets[rows])
           for part, rows in splits.items()},
        "test": (np.asarray(known.test_inputs), np.asarray(known.test_targets)),
    }, None, float((known.test_targets == 0).mean()))
