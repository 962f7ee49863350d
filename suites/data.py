"""Data sets as memory-mapped arrays, prepared once and shared by all ranks and trials.

``prepare`` runs in the parent process: it finds and decodes the data (``data_files``) and keeps
the arrays in a cache folder (``arrays``). Each rank then calls ``load``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, unknown
from bench_apts.core.files import require_folder
from bench_apts.suites import arrays, data_files
from bench_apts.suites.data_files import IncompleteData, Source
from bench_apts.suites.known_data import KNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Dataset", "Prepared", "Stream", "divided", "load", "prepare", "rows", "split"]


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


def prepare(name: str, data_dir: Path | None, offline: bool, cache: Path | None = None
            ) -> Prepared:
    """Make sure that the data set lies decoded in the cache; safe in several processes at once.

    It is looked for in the user's folder and in the ``data`` folder of the cache, and downloaded
    into the latter.

    Args:
        name: One of ``known_data.KNOWN``.
        data_dir: Where the user keeps data (``--data-dir`` or ``BENCH_APTS_DATA``), in one of the
            layouts of docs/data.md.
        offline: Whether a download is forbidden.
        cache: The cache folder; ``BENCH_APTS_CACHE`` or the platform's own without it.

    Raises:
        UserError: The name is unknown, the data is not there, damaged or cannot be downloaded,
            or the cache folder is full or not writable.
    """
    if name not in KNOWN:
        raise unknown("data set", name, KNOWN)
    root = arrays.cache_root(cache)
    if name == "digits":
        return _stored(Source(name, "digits"), root)
    if data_dir is not None:
        require_folder(data_dir, "name the one that holds the data sets by --data-dir or "
                                 "BENCH_APTS_DATA", "the data folder")
    downloads = root / "data"
    incomplete: list[str] = []
    for folder in filter(None, (data_dir, downloads)):
        if prepared := _from_folder(name, folder, root, incomplete):
            return prepared
    if not offline:
        with arrays.writable(downloads), arrays.locked(downloads / name):
            if prepared := _from_folder(name, downloads, root, []):
                return prepared  # another process was faster
            data_files.download(name, downloads)
        if prepared := _from_folder(name, downloads, root, incomplete):
            return prepared
    looked = " and in ".join(str(folder) for folder in (data_dir, downloads) if folder)
    lacks = f" ({'; '.join(dict.fromkeys(filter(None, incomplete)))})" if any(incomplete) else ""
    raise UserError(
        f"no data for '{name}': looked in {looked}{lacks}; name its folder by --data-dir or "
        "BENCH_APTS_DATA (layouts: docs/data.md), or drop --offline to download it")


def _from_folder(name: str, folder: Path, root: Path, incomplete: list[str]) -> Prepared | None:
    """Return the data set if a folder has it; what lacks files is added to ``incomplete``."""
    for source in data_files.sources(name, folder):
        try:
            return _stored(source, root)
        except IncompleteData as error:
            incomplete.append(str(error))
    return None


def _stored(source: Source, root: Path) -> Prepared:
    """Return the data set of a source, decoded unless it is in the cache."""
    folder = root / "arrays" / f"{source.name}-{source.key}"
    meta = arrays.valid(folder)
    if meta is None:
        meta = arrays.store(folder, KNOWN[source.name],
                            lambda scratch: data_files.decode(source, scratch))
    return Prepared(source.name, folder, meta["sha256"], meta["source"],
                    source.is_published(meta["sha256"]))


def load(folder: Path) -> Dataset:
    """Map the arrays of a folder that ``prepare`` returned.

    Raises:
        UserError: The folder is missing, incomplete or damaged.
    """
    meta = arrays.valid(folder)
    if meta is None:
        raise UserError(f"{folder} holds no complete data set; run the same command again to "
                        "rebuild it")
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in meta["arrays"]}
    return Dataset(
        **mapped, mean=tuple(meta["mean"]), std=tuple(meta["std"]), scale=meta["scale"],
        classes=meta["classes"], sha256=meta["sha256"], source=meta["source"],
        stream=Stream(**meta["stream"]) if "stream" in meta else None)


def divided(dataset: Dataset, validation: int, name: str, contiguous: bool = False
            ) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """Return inputs and targets of the training and of the validation split.

    A validation split of the data's own is taken as it is. Of a streamed data set they are
    examples, those for validation taken from the training split where there is no other.
    Arguments and errors are those of ``split``.
    """
    inputs, targets = dataset.train_inputs, dataset.train_targets
    if dataset.validation_inputs is not None and dataset.validation_targets is not None:
        return (inputs, targets), (dataset.validation_inputs, dataset.validation_targets)
    if dataset.stream:
        return (inputs, targets), (inputs, targets)
    train, held = rows(dataset, validation, name, contiguous)
    return (inputs[train], targets[train]), (inputs[held], targets[held])


def rows(dataset: Dataset, validation: int, name: str, contiguous: bool = False
         ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``split`` of a data set; one that is streamed is divided without its classes."""
    targets = (np.zeros(dataset.stream.lengths["train"]) if dataset.stream
               else dataset.train_targets)
    return split(targets, validation, name, contiguous)


def split(targets: NDArray[Any], validation: int, name: str, contiguous: bool = False
          ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the training samples once and for all into training and validation.

    The division depends on the targets and the name alone: it is the same for every seed,
    optimizer and number of ranks. Each class gives its share to the validation, to within one
    sample; targets that are not classes, integers of the shape ``(n,)``, count as one class.

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
