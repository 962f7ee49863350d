"""Decoded arrays: how they are identified, divided and cached.

A folder of the cache holds one ``.npy`` file for each array and ``meta.json``, which carries the
fingerprint, and the sizes by which a damaged folder is recognised. It is written under another
name and renamed when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

NAMES = ("train_inputs", "train_targets", "test_inputs", "test_targets")
OPTIONAL = ("validation_inputs", "validation_targets")
"""Arrays of data that comes with a validation split."""
VERSION = 1
"""Raised with every change of the decoding or of ``known_data.KNOWN``: old folders are ignored."""

Arrays = dict[str, "NDArray[Any]"]
REMEDY = "set BENCH_APTS_CACHE to a folder with room that you can write to"


@dataclass(frozen=True)
class InputScaling:
    """How inputs are normalised, the number of classes, and what the arrays take on the disk."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    classes: int
    array_bytes: int


def by_name(splits: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> Arrays:
    """Return the inputs and targets of splits as ``train_inputs`` and so on."""
    return {f"{part}_{name}": array for part, pair in splits.items()
            for name, array in zip(("inputs", "targets"), pair, strict=True)}


def cache_root(cache: Path | None) -> Path:
    """Return the cache folder: the argument, BENCH_APTS_CACHE or the platform's own."""
    if cache is not None:
        return cache.absolute()
    if named := os.environ.get("BENCH_APTS_CACHE"):
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("bench-apts")


def fingerprint(arrays: Arrays) -> str:
    """Return the sha256 over name, dtype, shape and bytes of the arrays, in a fixed order.

    It depends on the decoded values alone, not on the layout or format they were read from.
    """
    total = hashlib.sha256()
    for name in (*NAMES, *(name for name in OPTIONAL if name in arrays)):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {_kind(array)} {array.shape}\n".encode())
        total.update(array.view(np.uint8).data if array.dtype.names else array.data)
    return total.hexdigest()


def _kind(array: NDArray[Any]) -> str:
    """Return an array's dtype as text; of one with fields, all their names and dtypes."""
    return str(array.dtype.descr) if array.dtype.names else array.dtype.str


def scaled(inputs: NDArray[Any]) -> bool:
    """Say whether inputs are normalised: floats, and uint8 images ``(n, H, W)``, ``(n, C, H, W)``.

    Integers, such as tokens, reach the model as int64.
    """
    return inputs.dtype.kind == "f" or (inputs.dtype == np.uint8 and inputs.ndim >= 3)


def stratified(targets: NDArray[np.int64], number: int, seed: int
               ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw samples, from each class its share to within one.

    Returns:
        Sorted indices, int64: those that remain, and the ``number`` drawn.
    """
    # Raw output of a bit generator: unlike `permutation`, numpy never changes its stream.
    keys = np.random.PCG64(seed).random_raw(len(targets))
    classes, counts = np.unique(targets, return_counts=True)
    shares = number * counts / len(targets)
    quotas = np.floor(shares).astype(np.int64)
    most_cut = np.argsort(-(shares - quotas), kind="stable")
    quotas[most_cut[: number - quotas.sum()]] += 1
    drawn = np.zeros(len(targets), dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        members = np.flatnonzero(targets == label)
        drawn[members[np.argsort(keys[members], kind="stable")[:quota]]] = True
    return np.flatnonzero(~drawn).astype(np.int64), np.flatnonzero(drawn).astype(np.int64)


def valid(folder: Path) -> dict[str, Any] | None:
    """Return the meta data of a complete folder, None for a missing or damaged one.

    Cheap: compares the files' sizes and the arrays' dtypes and shapes, and reads no sample.
    """
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        if not set(NAMES) <= set(meta["arrays"]):
            return None
        for name, expected in meta["arrays"].items():
            path = folder / f"{name}.npy"
            if path.stat().st_size != expected["file_bytes"]:
                return None
            array = np.load(path, mmap_mode="r")
            if [_kind(array), list(array.shape)] != [expected["dtype"], expected["shape"]]:
                return None
        return meta if meta["version"] == VERSION and meta["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(folder: Path, scaling: InputScaling, decode: Callable[[Path], tuple[Arrays, str]],
          more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Decode into ``folder``, once for all processes that ask at the same time.

    Args:
        folder: The new folder.
        scaling: Of the inputs, for the meta data.
        decode: Returns the arrays and says where they come from; its argument is the path of a
            folder that it may make for temporary files.
        more: Further meta data, which take precedence.

    Raises:
        UserError: The disk is too full, or the cache is not writable.
    """
    with writable(folder.parent), locked(folder):
        if (meta := valid(folder)) is not None:  # another process was faster
            return meta
        require_space(folder.parent, scaling.array_bytes)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process; we hold the lock
        try:
            partial.mkdir()
            scratch = partial / "unpacked"
            arrays, source = decode(scratch)
            shutil.rmtree(scratch, ignore_errors=True)
            described = {name: _write(partial / f"{name}.npy", array)
                         for name, array in arrays.items()}
            meta = {"version": VERSION, "sha256": fingerprint(arrays), "source": source,
                    "mean": scaling.mean, "std": scaling.std, "scale": scaling.scale,
                    "classes": scaling.classes, "arrays": described} | (more or {})
            (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    # As read back, so that the first call returns what later calls do.
    return dict(json.loads(json.dumps(meta)))


def _write(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    """Write an array durably and return what ``valid`` compares."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())
    return {"dtype": _kind(array), "shape": list(array.shape), "file_bytes": path.stat().st_size}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of ``path``."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make ``folder``, and turn what the file system refuses in the block into a UserError.

    Errors of reading other files in the block must be caught within it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write to the data cache {folder}: "
                        f"{error.strerror or error}; {REMEDY}") from error


def require_space(folder: Path, needed: int) -> None:
    """Check that ``needed`` bytes are free where ``folder`` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"too little disk space in {folder}: {needed:,} bytes needed, "
                        f"{free:,} free; {REMEDY}")
