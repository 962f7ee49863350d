"""What the splits of every data set must satisfy, targets as classes, and division by content."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bench_apts.core.errors import UserError
from bench_apts.suites.readers.reader_paths import blocks, pick

Splits = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""Inputs and targets of ``train``, ``test`` and perhaps ``validation``."""

PARTS = ("train", "validation", "test")


def checked(splits: object, where: object) -> Splits:
    """Return the splits with unchanged arrays, in the order of ``PARTS``, if a trial can use them.

    Samples with equal inputs in two splits cause a ``UserWarning`` with their number.

    Args:
        splits: Arrays ``(n, ...)`` of inputs and targets for each name in ``PARTS``; the one for
            ``validation`` may be missing.
        where: The file, folder or function they come from, for messages.

    Raises:
        UserError: A split is missing or empty, inputs and targets differ in number, or samples in
            shape or dtype between splits; there are values that are NaN, infinite or not numbers;
            or the classes of the training split are not 0 … K - 1, or another split has more.
    """
    if not isinstance(splits, dict) or not {"train", "test"} <= splits.keys() <= set(PARTS):
        got = sorted(map(str, splits)) if isinstance(splits, dict) else type(splits).__name__
        raise UserError(f"{where}: expected a dictionary with the splits train, test and perhaps "
                        f"validation, got {got}")
    found = fitting(cast("Splits", splits), where)
    _classes(found, where)
    _repeated(found, where)
    return found


def fitting(splits: Splits, where: object) -> Splits:
    """Return splits that hold finite numbers and fit together, in the order of ``PARTS``.

    Each should be two arrays of numbers, of which the inputs may have fields; shapes and dtypes
    of samples should be those of the training split.
    """
    found = {part: splits[part] for part in PARTS if part in splits}
    for part, pair in found.items():
        _require_usable(pair, f"{where}, split {part}")
    for part in found:
        for name, train, other in zip(("inputs", "targets"), found["train"], found[part],
                                      strict=True):
            if (train.shape[1:], train.dtype) != (other.shape[1:], other.dtype):
                raise UserError(f"{where}: the {name} are {train.dtype} {train.shape[1:]} in "
                                f"train but {other.dtype} {other.shape[1:]} in {part}; make them "
                                "alike")
    return found


def _require_usable(pair: object, where: object) -> None:
    """Check the inputs and targets of one split: finite numbers, equally many, not empty."""
    if not (isinstance(pair, tuple) and len(pair) == 2
            and all(isinstance(array, np.ndarray) for array in pair)):
        raise UserError(f"{where}: expected a tuple (inputs, targets) of NumPy arrays")
    inputs, targets = pair
    columns = [*([(f"inputs '{name}'", inputs[name]) for name in inputs.dtype.names or ()]
                 or [("inputs", inputs)]), ("targets", targets)]
    for name, array in columns:
        if array.dtype.kind not in "biuf":
            raise UserError(f"{where}: the {name} have dtype {array.dtype}; convert them to "
                            "numbers (integers or floats)")
        if array.size == 0:
            raise UserError(f"{where}: the {name} are empty (shape {array.shape}); each split "
                            "needs samples")
    if len(inputs) != len(targets):
        raise UserError(f"{where}: {len(inputs)} inputs but {len(targets)} targets; each sample "
                        "needs one of both")
    for name, array in columns:
        if array.dtype.kind == "f":
            finite = blocks(array, lambda block: np.isfinite(block).reshape(len(block), -1)
                            .all(axis=1))
            if not finite.all():
                raise UserError(f"{where}: the {name} of sample {int(finite.argmin())} (counted "
                                f"from 0) and of {int((~finite).sum())} sample(s) in all hold NaN "
                                "or infinity; replace or remove them")


def digests(array: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a hash of each sample's bytes, ``(n,)``."""
    def hashed(block: NDArray[Any]) -> NDArray[np.uint64]:
        rows = np.ascontiguousarray(block).reshape(len(block), -1).view(np.uint8)
        return np.array([digest(row.tobytes()) for row in rows], dtype=np.uint64)

    return blocks(array, hashed)


def digest(content: bytes) -> int:
    """Return 64 bits of the content's BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _classes(splits: Splits, where: object) -> None:
    """Check targets that are classes: integers of one dimension."""
    targets = splits["train"][1]
    if targets.ndim != 1 or targets.dtype.kind not in "biu":
        return
    known = np.unique(targets)
    if not np.array_equal(known, np.arange(len(known))):
        raise UserError(f"{where}: the {len(known)} classes in train are numbered "
                        f"{known[0]} to {known[-1]}, expected 0 to {len(known) - 1} without a "
                        "gap; number them so, or store targets of a regression as floats")
    for part, (_, labels) in splits.items():
        strange = np.setdiff1d(labels, known)
        if len(strange):
            raise UserError(f"{where}: {part} has class {strange[0]}, of which train has no "
                            f"sample (it has 0 to {len(known) - 1}); add some, or remove the "
                            "class")


def _repeated(splits: Splits, where: object) -> None:
    """Warn of samples that two splits share."""
    hashes = {part: digests(inputs) for part, (inputs, _) in splits.items()}
    for first, second in itertools.combinations(hashes, 2):
        count = int(np.isin(hashes[second], hashes[first]).sum())
        if count:
            warnings.warn(f"{where}: {count:,} of the {len(hashes[second]):,} samples in "
                          f"{second} have the same inputs as samples in {first}; remove them "
                          f"from one of the two, or {second} measures memorisation too",
                          stacklevel=4)


def held_out(keys: NDArray[np.uint64], targets: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Return which samples form the test split, by their content alone.

    From each class those with the smallest keys are taken. The choice depends neither on the
    samples' order nor on their file names, and samples with equal keys stay together.

    Args:
        keys: Hashes of the samples, ``(n,)``.
        targets: Classes, integers or text ``(n,)``; anything else is not divided by class.
        share: Of the test split, more than 0 and less than 1.
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


def assembled(parts: Splits, where: object, test_share: float | None = None) -> Splits:
    """Return checked splits of what a reader read, with targets as numbers.

    Without a test split the validation split is the test split; samples that came as one are
    divided by content, and ``test_share`` of them are the test split.
    """
    targets = numbered({part: pair[1] for part, pair in parts.items()}, where)
    splits = {part: (pair[0], targets[part]) for part, pair in parts.items()}
    if len(splits) == 1 and test_share is not None:
        splits = divided(*splits["train"], test_share, where)
    elif "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return checked(splits, where)


def divided(inputs: NDArray[Any], targets: NDArray[Any], share: float, where: object) -> Splits:
    """Return a training and a test split of samples that came as one.

    Args:
        inputs: Of all samples, ``(n, ...)``, like ``targets``.
        targets: Likewise.
        share: Of the test split, more than 0 and less than 1.
        where: The file, for messages.
    """
    _require_usable((inputs, targets), where)
    test = held_out(digests(inputs), targets, share)
    return {part: (pick(inputs, rows, where), pick(targets, rows, where))
            for part, rows in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test)))}


def numbered(parts: dict[str, NDArray[Any]], where: object) -> dict[str, NDArray[Any]]:
    """Return targets as numbers, with the same meaning in all splits.

    Text becomes int64 classes, numbered in the sorted order of the training split's texts.
    Integers and booleans become int64, floats stay floats. A text that the training split lacks
    is refused.
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
