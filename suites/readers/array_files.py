"""Files of named arrays (NumPy's .npz and safetensors) and of tables (CSV, one sample a row)."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench_apts.core.errors import UserError, describe_error, unknown
from bench_apts.suites.arrays import NAMES, OPTIONAL
from bench_apts.suites.readers.reader_paths import existing, require_memory
from bench_apts.suites.readers.split_checks import PARTS, assembled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from bench_apts.suites.readers.reader_paths import PathName
    from bench_apts.suites.readers.split_checks import Splits

Names = Mapping[str, str] | None
"""The names that the arrays ``train_inputs`` … have in a file."""


def npz(file: PathName, names: Names = None, data_dir: PathName | None = None) -> Splits:
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
        raise UserError(f"{path} cannot be read as .npz without pickles "
                        f"({describe_error(error)}); write it again by numpy.savez with arrays of "
                        "numbers") from error


def safetensors(file: PathName, names: Names = None, data_dir: PathName | None = None) -> Splits:
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
        raise UserError(f"{path} cannot be read as safetensors ({describe_error(error)}); "
                        "write it again, with dtypes that NumPy has") from error


def _wanted(names: Names, there: list[str], path: Path) -> dict[str, str]:
    """Return the names in the file of the arrays to read."""
    named = dict(names or {})
    for key in named:
        if key not in NAMES + OPTIONAL:
            raise unknown("array in the option names", key, NAMES + OPTIONAL)
    wanted = {key: key for key in (*NAMES, *(key for key in OPTIONAL if key in there))} | named
    missing = [name for name in wanted.values() if name not in there]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}; it has "
                        f"{', '.join(sorted(there)[:10]) or 'none'}; name them by the option "
                        f'names = {{{NAMES[0]} = "…", …}}')
    return wanted


def _splits(arrays: dict[str, NDArray[Any]], path: Path) -> Splits:
    """Return the arrays as checked splits, in the machine's byte order."""
    arrays = {key: array.astype(array.dtype.newbyteorder("="), copy=False)
              for key, array in arrays.items()}
    return assembled({part: (arrays[f"{part}_inputs"], arrays[f"{part}_targets"])
                      for part in PARTS if f"{part}_inputs" in arrays}, path)


MAX_TEXT_VALUES = 1_000
"""A column with more different texts holds free text, names or dates."""


def csv(file: PathName, target: str, features: Sequence[str] | None = None,
        task: Literal["classification", "regression"] | None = None, test_share: float = 0.2,
        test_file: PathName | None = None, separator: str = ",", data_dir: PathName | None = None
        ) -> Splits:
    """Read a CSV file with a header, one sample a row.

    Numeric columns become features as they are, booleans 0 and 1. A column of text becomes one
    feature of 0 or 1 for each of its values, in sorted order. Without a ``test_file`` the rows
    are divided by content.

    Args:
        file: The training samples, or all of them.
        target: The column that is predicted.
        features: The columns that predict it; all others without it.
        task: Whether the target is a class or a value; needed if the column holds integers.
        test_share: Of one file; more than 0 and less than 1.
        test_file: The test samples, with the same columns.
        separator: Between the values of a row.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs float32 ``(n, features)``; targets int64 ``(n,)`` in a classification,
        numbered in sorted order of the column's values, float32 ``(n,)`` in a regression.

    Raises:
        UserError: A file is missing or damaged, a column is missing or cannot be used, or a value
            is missing, infinite or not a number in a column of numbers.
    """
    import pandas as pd

    if task not in (None, "classification", "regression"):
        raise unknown("task", str(task), ("classification", "regression"))
    paths = [existing(path, data_dir) for path in (file, test_file) if path is not None]
    tables = [_table(path, separator) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        for column in [target, *(tables[0].columns if features is None else features)]:
            if column not in table.columns:
                raise unknown("column", column, map(str, table.columns),
                              f"({path} with separator '{separator}')")
    names = list(tables[0].columns.drop(target) if features is None else features)
    if target in names or not names:
        raise UserError(f"{paths[0]}: the features {names} must be columns other than the target "
                        f"'{target}'")
    for path, table in zip(paths, tables, strict=True):
        _complete(table[[*names, target]], path)
    whole = pd.concat(tables, ignore_index=True)
    inputs = np.concatenate([_feature(whole[name], paths[0]) for name in names], axis=1)
    targets = _target(whole[target], task, paths[0])
    cut = len(tables[0])
    parts = {"train": (inputs[:cut], targets[:cut])}
    if len(tables) > 1:
        parts["test"] = inputs[cut:], targets[cut:]
    return assembled(parts, paths[0], test_share)


def _table(path: Path, separator: str) -> pd.DataFrame:
    """Return a file's rows with the dtypes that pandas finds."""
    import pandas as pd

    require_memory(4 * path.stat().st_size, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, sep=separator, index_col=False, low_memory=False,
                                skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning,
            UnicodeDecodeError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as CSV ({describe_error(error)}); it needs UTF-8, "
                        "a header, and as many values in each row; for another separator give the "
                        "option separator") from error
    if table.empty:
        raise UserError(f"{path} has no rows below its header; add samples")
    return table


def _complete(table: pd.DataFrame, path: Path) -> None:
    """Check that no value is missing."""
    missing = table.isna().to_numpy()
    if missing.any():
        row, column = np.argwhere(missing)[0]
        raise UserError(f"{path}, row {row + 1} below the header, column {table.columns[column]}: "
                        f"the value is missing ({int(missing.sum())} in all); fill it in, or "
                        "remove the row")


def _feature(column: pd.Series[Any], path: Path) -> NDArray[np.float32]:
    """Return a column as features, float32 ``(n, 1)`` or ``(n, values)``."""
    import pandas as pd

    where = f"{path}, column {column.name}"
    if pd.api.types.is_numeric_dtype(column):
        with np.errstate(over="ignore"):
            values: NDArray[np.float32] = column.to_numpy().astype(np.float32)
        if not np.isfinite(values).all():
            row = int(np.isfinite(values).argmin())
            raise UserError(f"{where}, row {row + 1} below the header: {column.iloc[row]} is not "
                            "a finite float32; correct it, or remove the row")
        return values[:, None]
    texts = column.astype(str)
    odd = pd.to_numeric(texts, errors="coerce").isna().to_numpy()
    if odd.mean() < 0.5:
        row = int(odd.argmax())
        raise UserError(f"{where}, row {row + 1} below the header: {texts.iloc[row]!r} is not a "
                        "number as most of the column is; correct it, or remove the row")
    words: NDArray[np.str_] = np.asarray(texts, dtype=str)
    kinds = np.unique(words)
    if len(kinds) > MAX_TEXT_VALUES:
        raise UserError(f"{where} has {len(kinds):,} different texts, more than the "
                        f"{MAX_TEXT_VALUES:,} that become features; leave it out of features")
    return np.equal(words[:, None], kinds).astype(np.float32)


def _target(column: pd.Series[Any], task: str | None, path: Path) -> NDArray[Any]:
    """Return the targets: texts or booleans (classes), or float32 (values)."""
    import pandas as pd

    where = f"{path}, column {column.name}"
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if task is None and pd.api.types.is_integer_dtype(column):
        raise UserError(f"{where} holds integers, which may be classes or values; say which by "
                        'the option task = "classification" or "regression"')
    if task == "regression" or (task is None and numeric):
        if not numeric:
            raise UserError(f"{where} holds '{column.iloc[0]}', which is not a number, so that it "
                            'cannot be the target of a regression; use task = "classification"')
        return _feature(column, path)[:, 0]
    if numeric:  # classes in the order of their numbers, not of their texts
        return np.unique(column.to_numpy(), return_inverse=True)[1]
    return column.to_numpy(dtype=str)
