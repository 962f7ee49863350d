"""Decoded arrays: how they are identified, divided and cached.

The cache is written beside and renamed, and checked before use.

A folder holds one ``.npy`` file for each array and ``meta.json``, which carries the
fingerprint and the sizes by which a damaged folder is recognised.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from bench_apts.suites.data_files import Facts
    from bench_apts.suites.user_data import InputScaling

NAMES = ("train_inputs", "train_targets", "test_inputs", "test_targets")
OWN = ("validation_inputs", "validation_targets")
"""Arrays of data that comes with a validation split."""
VERSION = 1
"""Raised with every change of the decoding or of ``sources.KNOWN``: old folders are passed by."""

Arrays = dict[str, "NDArray[Any]"]
REMEDY = "set BENCH_APTS_CACHE to a folder with room that you can write to"


def cache_root(cache: Path | None) -> Path:
    """Returns the cache folder: the argument, BENCH_APTS_CACHE or the platform's own."""
    if cache is not None:
        return cache.absolute()
    if named := os.environ.get("BENCH_APTS_CACHE"):
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("bench-apts")


def fingerprint(arrays: Arrays) -> str:
    """Returns the sha256 over name, dtype, shape and bytes of the arrays, in a fixed order.

    It depends on the decoded values alone, not on the layout or format they were read from.
    """
    total = hashlib.sha256()
    for name in (*NAMES, *(name for name in OWN if name in arrays)):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {_kind(array)} {array.shape}\n".encode())
        total.update(array.view(np.uint8).data if array.dtype.names else array.data)
    return total.hexdigest()


def _kind(array: NDArray[Any]) -> str:
    """Return an array's dtype as text; of one with fields, all their names and dtypes."""
    return str(array.dtype.descr) if array.dtype.names else array.dtype.str


def scaled(inputs: NDArray[Any]) -> bool:
    """Say whether inputs are normalised: floats, and uint8 images ``(n, H, W)``, ``(n, C, H, W)``.

    Whole numbers, such as tokens, are given to the model as int64.
    """
    return inputs.dtype.kind == "f" or (inputs.dtype == np.uint8 and inputs.ndim >= 3)


def stratified(
    targets: NDArray[np.int64], number: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws ``number`` samples, from each class its share to within one.

    Returns:
        Sorted indices, int64: those that remain, and those drawn.
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
    """Returns the meta data of a whole folder, None for a missing or damaged one.

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


def store(
    folder: Path, facts: Facts | InputScaling, decode: Callable[[], Arrays], source: str,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Decodes into ``folder``, once for all processes that ask at the same time.

    Args:
        folder: The new folder.
        facts: What is known of the data.
        decode: Returns the arrays.
        source: In words, where they come from.
        more: Further meta data, which take precedence.

    Raises:
        UserError: The disk is too full, the cache is not writable, or ``decode`` says so.
    """
    with writable(folder.parent), locked(folder):
        if (meta := valid(folder)) is not None:  # another process was faster
            return meta
        require_space(folder.parent, facts.array_bytes)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process; we hold the lock
        try:
            partial.mkdir()
            meta = _write(partial, facts, decode(), source, more or {})
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return meta


def _write(
    folder: Path, facts: Facts | InputScaling, arrays: Arrays, source: str, more: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        described[name] = {"dtype": _kind(array), "shape": list(array.shape),
                           "file_bytes": path.stat().st_size}
    meta = {"version": VERSION, "sha256": fingerprint(arrays), "source": source,
            "mean": facts.mean, "std": facts.std, "scale": facts.scale,
            "classes": facts.classes, "arrays": described} | more
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    # As read back, so that the first call returns what later calls do.
    return dict(json.loads(json.dumps(meta)))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file beside ``path``."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes ``folder``, and turns what the file system refuses inside it into a UserError.

    Whoever reads other files in the block turns their errors into a UserError himself.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write to the data cache {folder}: "
                        f"{error.strerror or error}; {REMEDY}") from error


def require_space(folder: Path, needed: int) -> None:
    """Checks that ``needed`` bytes are free where ``folder`` lies.

    Raises:
        UserError: They are not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"too little disk space in {folder}: {needed:,} bytes needed, "
                        f"{free:,} free; {REMEDY}")
