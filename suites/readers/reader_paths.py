"""Paths and files of readers, and memory for arrays whose size is known only from their file."""

from __future__ import annotations

import glob
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.environment import memory_bytes
from bench_apts.core.errors import UserError
from bench_apts.suites import arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

PathName = str | os.PathLike[str]

BLOCK = 4_096
"""Samples that are handled at once where an array may be larger than memory."""


def existing(path: PathName, data_dir: PathName | None, folder: bool = False) -> Path:
    """Return the first of ``candidates`` that is a file, or a folder if one is wanted."""
    for found in candidates(path, data_dir):
        if found.is_dir() if folder else found.is_file():
            return found
    raise UserError(f"{' and '.join(map(str, candidates(path, data_dir)))}: no "
                    f"{'folder' if folder else 'file'} there; correct the path in the data "
                    "options, or name the folder that it lies in by --data-dir")


def matching(pattern: PathName, data_dir: PathName | None) -> list[Path]:
    """Return the paths that match a glob pattern, sorted; in ``data_dir`` if it has any."""
    escaped = None if data_dir is None else glob.escape(str(Path(data_dir).expanduser()))
    for found in candidates(pattern, escaped):
        if paths := sorted(map(Path, glob.glob(str(found)))):
            return paths
    return []


def candidates(path: PathName, data_dir: PathName | None) -> list[Path]:
    """Return what a path, with ``~`` expanded, may mean: in ``data_dir``, then as it is."""
    named = Path(path).expanduser()
    inside = named if data_dir is None else Path(data_dir).expanduser() / named
    return list(dict.fromkeys((inside, named)))


def read_bytes(path: Path) -> bytes:
    """Return what a file holds."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def room(shape: tuple[int, ...], dtype: DTypeLike, where: object) -> NDArray[Any]:
    """Return an uninitialised array to fill.

    Beyond a quarter of the memory it lies in an unnamed temporary file in the cache folder, whose
    space is free again when the array is.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= memory_bytes() // 4:
        return np.empty(shape, dtype)
    root = arrays.cache_root(None)
    with arrays.writable(root):
        free = shutil.disk_usage(root).free
        if size > free:
            raise UserError(f"{where} takes {size:,} bytes as arrays, and {root} has {free:,} "
                            f"free; read fewer or smaller samples, or {arrays.REMEDY}")
        with tempfile.TemporaryFile(dir=root) as file:
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def require_memory(size: int, where: object) -> None:
    """Check that ``size`` bytes, unpacked from a file, take at most half of the memory."""
    if size > memory_bytes() // 2:
        raise UserError(f"{where} takes {size:,} bytes in memory, more than half of the "
                        f"{memory_bytes():,} there are; store fewer samples in it")


def pick(array: NDArray[Any], chosen: NDArray[np.int64], where: object) -> NDArray[Any]:
    """Return the chosen samples of an array, copied block by block."""
    out = room((len(chosen), *array.shape[1:]), array.dtype, where)
    for start in range(0, len(chosen), BLOCK):
        out[start:start + BLOCK] = array[chosen[start:start + BLOCK]]
    return out


def blocks(array: NDArray[Any], look: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return ``look`` of an array's samples, ``(b, ...)`` to ``(b,)``, block by block."""
    return np.concatenate([look(array[start:start + BLOCK])
                           for start in range(0, len(array), BLOCK)])
