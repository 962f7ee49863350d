"""Files of named arrays: NumPy's .npz and safetensors."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, unknown

from .checks import checked
from .divide import numbered
from .storage import existing, require_memory

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from numpy.typing import NDArray

    from .checks import Splits

Names = Mapping[str, str] | None
"""From ``train_inputs`` and the like to the names that the arrays have in a file."""

NEEDED = ("train_inputs", "train_targets", "test_inputs", "test_targets")
OPTIONAL = ("validation_inputs", "validation_targets")


def npz(file: str | os.PathLike[str], names: Names = None,
        data_dir: str | os.PathLike[str] | None = None) -> Splits:
    """Read the arrays of an .npz file; pickled objects are refused.

    Args:
        file: Of ``numpy.savez`` or ``numpy.savez_compressed``.
        names: What the arrays are called, where they are not called ``train_inputs``,
            ``train_targets``, ``test_inputs`` and ``test_targets`` (and optionally
            ``validation_inputs`` and ``validation_targets``): ``{"train_inputs": "x_train"}``.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs as stored, targets as stored except that integers become int64.

    Raises:
        UserError: The file is missing or damaged, lacks an array or has one of objects.
    """
    path = existing(file, data_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size
                     for info in archive.infolist()}
        wanted = _wanted(names, list(sizes), path)
        require_memory(sum(sizes[name] for name in wanted.values()), path)
        with np.load(path, allow_pickle=False) as stored:
            return _splits({key: np.asarray(stored[name]) for key, name in wanted.items()}, path)
    except (OSError, ValueError, EOFError, LookupError, MemoryError, OverflowError,
            RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as .npz without pickles ({reason}); write it "
                        "again by numpy.savez with arrays of numbers") from error


def safetensors(file: str | os.PathLike[str], names: Names = None,
                data_dir: str | os.PathLike[str] | None = None) -> Splits:
    """Read the tensors of a safetensors file.

    Args:
        file: Of ``safetensors.numpy.save_file`` or ``safetensors.torch.save_file``.
        names: As of ``npz``.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs as stored, targets as stored except that integers become int64.

    Raises:
        UserError: The package safetensors is missing, the file is missing or damaged, or lacks a
            tensor, or has one of a dtype that NumPy lacks (bfloat16, float8).
    """
    path = existing(file, data_dir)
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"{path} needs the package safetensors: pip install safetensors") \
            from error
    require_memory(path.stat().st_size, path)
    try:
        with safe_open(path, framework="np") as stored:
            wanted = _wanted(names, list(stored.keys()), path)
            return _splits({key: stored.get_tensor(name) for key, name in wanted.items()}, path)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({str(error).splitlines()[0]}); "
                        "write it again, with dtypes that NumPy has") from error


def _wanted(names: Names, there: list[str], path: Path) -> dict[str, str]:
    """Return the names in the file of the arrays to read."""
    for key in names or {}:
        if key not in NEEDED + OPTIONAL:
            raise unknown("array in the option names", key, NEEDED + OPTIONAL)
    wanted = {key: (names or {}).get(key, key) for key in NEEDED + OPTIONAL}
    wanted = {key: name for key, name in wanted.items()
              if key in NEEDED or key in (names or {}) or name in there}
    missing = [name for name in wanted.values() if name not in there]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}; it has "
                        f"{', '.join(sorted(there)[:10]) or 'none'}; name them by the option "
                        f'names = {{{next(iter(NEEDED))} = "…", …}}')
    return wanted


def _splits(arrays: dict[str, NDArray[Any]], path: Path) -> Splits:
    """Return the arrays as checked splits, in the machine's byte order."""
    arrays = {key: array.astype(array.dtype.newbyteorder("="), copy=False)
              for key, array in arrays.items()}
    parts = [part for part in ("train", "validation", "test") if f"{part}_inputs" in arrays]
    targets = numbered({part: arrays[f"{part}_targets"] for part in parts}, path)
    return checked({part: (arrays[f"{part}_inputs"], targets[part]) for part in parts}, path)
