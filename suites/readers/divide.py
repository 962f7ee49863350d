"""Targets as classes, and the division of data that comes without a test split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

from .checks import digests, usable
from .storage import pick

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .checks import Splits


def held_out(keys: NDArray[np.uint64], targets: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Return which samples form the test split, by their content alone.

    From each class those with the smallest keys are taken. The choice depends neither on the
    samples' order nor on their file names, and samples with equal keys stay together.

    Args:
        keys: Hashes of the samples, ``(n,)``.
        targets: Classes, integers or text ``(n,)``; anything else is not divided by class.
        share: Of the test split, more than 0 and less than 1.

    Raises:
        UserError: The share is not within its bounds.
    """
    if not 0 < share < 1:
        raise UserError(f"test_share = {share} is not between 0 and 1 (exclusive)")
    chosen = np.zeros(len(keys), dtype=bool)
    by_class = targets.ndim == 1 and targets.dtype.kind != "f"
    groups = np.unique(targets, return_inverse=True)[1] if by_class else np.zeros(len(keys))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        quota = round(share * len(members))
        if quota:
            chosen[members] = keys[members] <= np.sort(keys[members])[quota - 1]
    return chosen


def divided(inputs: NDArray[Any], targets: NDArray[Any], share: float, where: object) -> Splits:
    """Return a training and a test split of samples that came as one.

    Args:
        inputs: Of all samples, ``(n, ...)``.
        targets: Of all samples, ``(n, ...)``.
        share: Of the test split, more than 0 and less than 1.
        where: The file, for messages.

    Raises:
        UserError: The share is not within its bounds, or the samples cannot be used.
    """
    usable((inputs, targets), where)
    test = held_out(digests(inputs), targets, share)
    return {part: (pick(inputs, rows, where), pick(targets, rows, where))
            for part, rows in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test)))}


def numbered(parts: dict[str, NDArray[Any]], where: object) -> dict[str, NDArray[Any]]:
    """Return targets as numbers, with the same meaning in all splits.

    Text becomes int64 classes, numbered in the sorted order of the training split's texts.
    Integers and booleans become int64, floats stay floats.

    Args:
        parts: Targets by split, ``train`` among them.
        where: The file, for messages.

    Raises:
        UserError: A split has a text that the training split has not.
    """
    if parts["train"].dtype.kind not in "OUS":
        return {part: array.astype(np.int64) if array.dtype.kind in "biu" else array
                for part, array in parts.items()}
    names = np.unique(parts["train"].astype(str))
    numbers: dict[str, NDArray[Any]] = {}
    for part, array in parts.items():
        strange = np.setdiff1d(array.astype(str), names)
        if len(strange):
            raise UserError(f"{where}: {part} has the class '{strange[0]}', of which train has no "
                            "sample; add some, or remove the class")
        numbers[part] = np.searchsorted(names, array.astype(str)).astype(np.int64)
    return numbers
