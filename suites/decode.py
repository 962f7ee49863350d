"""From files to arrays, for each layout; nothing read from a file is ever executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, brief

from . import published
from .arrays import stratified
from .readers import hub
from .readers.divide import numbered
from .readers.pixels import Shape
from .readers.unpickling import load_arrays
from .sources import BATCHES, IDX, KNOWN, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from .arrays import Arrays

DIGITS_TEST = 300


def decode(source: Source) -> Arrays:
    """Reads all samples of a source.

    Returns:
        The arrays by name (see ``arrays.NAMES``); shapes and dtypes as in ``data.Dataset``.

    Raises:
        UserError: A file is damaged, not the published one, or of another shape.
    """
    if source.kind == "digits":
        return _digits()
    halves = {"idx": _idx, "batches": _batches, "archive": _batches, "parquet": _parquet}
    (train_x, train_y), (test_x, test_y) = halves[source.kind](source)
    facts = KNOWN[source.name]
    for x, y in ((train_x, train_y), (test_x, test_y)):
        where = source.files[0].parent
        if x.shape != (len(y), *facts.shape) or not len(y):
            raise UserError(f"{where}: {x.shape} images with {len(y)} labels, where "
                            f"'{source.name}' has images of the shape {facts.shape}")
        if y.min() < 0 or y.max() >= facts.classes:
            raise UserError(f"{where}: labels from {y.min()} to {y.max()}, where "
                            f"'{source.name}' has 0 to {facts.classes - 1}")
    return {"train_inputs": train_x, "train_targets": train_y,
            "test_inputs": test_x, "test_targets": test_y}


Half = tuple["NDArray[Any]", "NDArray[np.int64]"]


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = (bunch.data / 16.0).astype(np.float32)
    targets = bunch.target.astype(np.int64)
    train, test = stratified(targets, DIGITS_TEST, seed=0)
    return {"train_inputs": inputs[train], "train_targets": targets[train],
            "test_inputs": inputs[test], "test_targets": targets[test]}


def _idx(source: Source) -> tuple[Half, Half]:
    images, labels, test_images, test_labels = (
        _values(path, name) for path, name in zip(source.files, IDX, strict=True))
    return ((images[:, None], labels.astype(np.int64)),
            (test_images[:, None], test_labels.astype(np.int64)))


def _values(path: Path, name: str) -> NDArray[np.uint8]:
    """Return the values of a published IDX file, behind its header of 4 bytes and the sizes."""
    content = _published(path, name)
    start, shape = (16, (-1, 28, 28)) if "idx3" in name else (8, (-1,))
    try:
        return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
    except ValueError as error:
        raise UserError(f"{path} is no whole IDX file ({error}); fetch it again") from error


def _published(path: Path, name: str) -> bytes:
    return published.checked(path, name, published.read(path))


def _batches(source: Source) -> tuple[Half, Half]:
    contents: Iterator[tuple[Path, bytes]]
    if source.kind == "batches":
        contents = ((path, _published(path, name))
                    for path, name in zip(source.files, BATCHES, strict=True))
    else:
        (archive,) = source.files
        contents = published.members(archive, published.read(archive), BATCHES)
    halves = [batch(path, content) for path, content in contents]
    images = np.concatenate([x for x, _ in halves[:-1]])
    labels = np.concatenate([y for _, y in halves[:-1]])
    return (images, labels), halves[-1]


def batch(path: Path, content: bytes) -> Half:
    """Return images and labels of one of CIFAR-10's batches, a pickle that may hold arrays only.

    Args:
        path: The file, for messages.
        content: What it holds.

    Raises:
        UserError: It holds something else; none of it was run.
    """
    try:
        found = load_arrays(content)
        images = np.asarray(found["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(found["labels"], dtype=np.int64)
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images with {len(labels)} labels")
    except Exception as error:
        raise UserError(f"{path} is no CIFAR-10 batch ({brief(error)}); fetch it again") from error
    return images, labels


def _parquet(source: Source) -> tuple[Half, Half]:
    train = [path for path in source.files if path.name.startswith("train-")]
    test = [path for path in source.files if path.name.startswith("test-")]
    column = KNOWN[source.name].column
    (train_x, train_y), (test_x, test_y) = (
        hub.part_of(files, column, "label", Shape.of(None, None)) for files in (train, test))
    labels = numbered({"train": train_y, "test": test_y}, train[0].parent)
    return (train_x, labels["train"]), (test_x, labels["test"])
