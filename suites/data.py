"""From files to arrays, for each layout; nothing read from a file is ever executed.

Data sets as memory-mapped arrays, prepared once and shared by all ranks and trials.

``prepare`` runs in the parent process: it finds the data (``sources``), decodes it (``decode``)
and keeps the arrays in a cache folder (``arrays``). Each rank then calls ``load``. Nothing here
imports torch, a download excepted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, describe_error, unknown
from bench_apts.suites import arrays, data_files, published_files
from bench_apts.suites.arrays import stratified
from bench_apts.suites.data_files import BATCHES, IDX, KNOWN, Source
from bench_apts.suites.published_files import load_arrays
from bench_apts.suites.readers import parquet_files
from bench_apts.suites.readers.image_files import Shape
from bench_apts.suites.readers.split_checks import numbered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from bench_apts.suites.arrays import Arrays

__all__ = ["Dataset", "Prepared", "Stream", "divided", "load", "prepare", "rows", "split"]

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
    return published_files.checked(path, name, published_files.read(path))


def _batches(source: Source) -> tuple[Half, Half]:
    contents: Iterator[tuple[Path, bytes]]
    if source.kind == "batches":
        contents = ((path, _published(path, name))
                    for path, name in zip(source.files, BATCHES, strict=True))
    else:
        (archive,) = source.files
        contents = published_files.members(archive, published_files.read(archive), BATCHES)
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
        raise UserError(
            f"{path} is no CIFAR-10 batch ({describe_error(error)}); fetch it again"
        ) from error
    return images, labels


def _parquet(source: Source) -> tuple[Half, Half]:
    train = [path for path in source.files if path.name.startswith("train-")]
    test = [path for path in source.files if path.name.startswith("test-")]
    column = KNOWN[source.name].column
    (train_x, train_y), (test_x, test_y) = (
        parquet_files.part_of(files, column, "label", Shape.of(None, None))
        for files in (train, test)
    )
    labels = numbered({"train": train_y, "test": test_y}, train[0].parent)
    return (train_x, labels["train"]), (test_x, labels["test"])


@dataclass(frozen=True)
class Prepared:
    """A data set that lies decoded in ``folder``.

    ``sha256`` is the fingerprint over the decoded arrays, ``source`` says in words where they
    came from. ``published`` is False for a known data set whose files hold something else than,
    or cannot be shown to hold, the published data.
    """

    name: str
    folder: Path
    sha256: str
    source: str
    published: bool = True


@dataclass(frozen=True)
class Stream:
    """A data set whose samples are read while training.

    ``lengths`` are the sizes of its splits by name, ``data_dir`` is what the source was called
    with.
    """

    lengths: dict[str, int]
    data_dir: str | None

    def plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"lengths": self.lengths, "data_dir": self.data_dir}


@dataclass(frozen=True)
class Dataset:
    """The arrays of one data set, memory-mapped read-only.

    ``train_inputs`` and ``test_inputs`` have the shape ``(n, C, H, W)`` and dtype uint8, or
    ``(n, features)`` and float32; the targets are int64 ``(n,)`` in ``0 … classes - 1``. A model
    is fed ``(inputs * scale - mean) / std``, with one mean and deviation per channel. Data of the
    user's may have other shapes, inputs of int64, which stay as they are, targets ``(n, …)`` of
    float32, int64, uint8 or uint16, a validation split, and inputs of several arrays by name: one
    array ``(n,)`` with fields. Where there is a ``stream``, the arrays hold examples of it.
    """

    train_inputs: NDArray[Any]
    train_targets: NDArray[Any]
    test_inputs: NDArray[Any]
    test_targets: NDArray[Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    classes: int
    sha256: str
    source: str
    validation_inputs: NDArray[Any] | None = None
    validation_targets: NDArray[Any] | None = None
    stream: Stream | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train_inputs.shape[1:])


def prepare(
    name: str, data_dir: Path | None, offline: bool, cache: Path | None = None
) -> Prepared:
    """Makes sure that the data set lies decoded in the cache; safe in several processes at once.

    Args:
        name: One of ``sources.KNOWN``.
        data_dir: Where the user keeps data (``--data-dir`` or ``BENCH_APTS_DATA``): searched
            first, in the layouts of docs/data.md.
        offline: Whether a download is forbidden.
        cache: The cache folder; ``BENCH_APTS_CACHE`` or the platform's own without it.

    Raises:
        UserError: The name is unknown, the data is not there, damaged or cannot be downloaded,
            or the cache folder is full or not writable.
    """
    if name not in KNOWN:
        raise unknown("data set", name, KNOWN)
    root = arrays.cache_root(cache)
    source = data_files.find(name, data_dir, offline, root)
    folder = root / "arrays" / f"{name}-{source.key}"
    meta = arrays.valid(folder)
    if meta is None:
        meta = arrays.store(folder, KNOWN[name], lambda: decode(source), str(source))
    return Prepared(name, folder, meta["sha256"], meta["source"],
                    source.is_published(meta["sha256"]))


def load(folder: Path) -> Dataset:
    """Maps the arrays of a folder that ``prepare`` returned.

    Raises:
        UserError: The folder is missing, incomplete or damaged.
    """
    meta = arrays.valid(folder)
    if meta is None:
        raise UserError(f"{folder} holds no complete data set; run the same command again to "
                        "build it anew")
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["arrays"]}
    return Dataset(
        **mapped, mean=tuple(meta["mean"]), std=tuple(meta["std"]), scale=meta["scale"],
        classes=meta["classes"], sha256=meta["sha256"], source=meta["source"],
        stream=Stream(**meta["stream"]) if "stream" in meta else None,
    )


def divided(
    dataset: Dataset, validation: int, name: str, contiguous: bool = False
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """Return inputs and targets of the training and of the validation split.

    Of a streamed data set they are examples, those for validation taken from the training split
    where there is no other; ``rows`` divides it.

    Args:
        dataset: The data; a validation split of its own is taken as it is.
        validation: As in ``split``.
        name: As in ``split``.
        contiguous: As in ``split``.

    Raises:
        UserError: As in ``split``.
    """
    inputs, targets = dataset.train_inputs, dataset.train_targets
    if dataset.validation_inputs is not None and dataset.validation_targets is not None:
        return (inputs, targets), (dataset.validation_inputs, dataset.validation_targets)
    if dataset.stream:
        return (inputs, targets), (inputs, targets)
    train, held = rows(dataset, validation, name, contiguous)
    return (inputs[train], targets[train]), (inputs[held], targets[held])


def rows(
    dataset: Dataset, validation: int, name: str, contiguous: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which samples of the training split train, and which validate.

    The classes of a streamed data set are not known; its samples are divided without them.

    Args:
        dataset: The data.
        validation: As in ``split``.
        name: As in ``split``.
        contiguous: As in ``split``.

    Raises:
        UserError: As in ``split``.
    """
    targets = (np.zeros(dataset.stream.lengths["train"]) if dataset.stream
               else dataset.train_targets)
    return split(targets, validation, name, contiguous)


def split(
    targets: NDArray[Any], validation: int, name: str, contiguous: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides the training samples once and for all into training and validation.

    The division depends on the targets and the name alone: it is the same for every seed,
    optimizer and number of ranks. Each class gives its share to the validation, to within one
    sample; targets that are no classes, integers of the shape ``(n,)``, count as one class.

    Args:
        targets: The classes, int64 ``(n,)``, or other targets ``(n, …)``.
        validation: How many samples validate.
        name: The data set's name.
        contiguous: Whether the last samples validate.

    Returns:
        Sorted indices, int64, of the training and of the validation samples.

    Raises:
        UserError: ``validation`` leaves nothing to train on.
    """
    if not 0 < validation < len(targets):
        raise UserError(f"data.validation = {validation} of the {len(targets)} training samples "
                        f"of '{name}' leaves no training or no validation data")
    if contiguous:
        train, held = np.split(np.arange(len(targets)), [len(targets) - validation])
        return train, held
    if targets.ndim != 1 or targets.dtype.kind == "f":
        targets = np.zeros(len(targets), dtype=np.int64)
    seed = int.from_bytes(hashlib.sha256(f"validation of {name}".encode()).digest()[:16])
    return arrays.stratified(targets, validation, seed)
