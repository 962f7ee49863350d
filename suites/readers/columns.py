"""Columns of parquet files as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

from .storage import require_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def listed(columns: str | Sequence[str]) -> list[str]:
    """Return names of columns as a list, also a single one."""
    return [columns] if isinstance(columns, str) else list(columns)


def encoded(kind: Any) -> bool:
    """Return whether a column of this Arrow type holds encoded images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def stored(path: Path, columns: str | Sequence[str], texts: bool = False) -> NDArray[Any]:
    """Return a column of a file as it is stored, or several as float32 ``(n, k)``.

    Args:
        path: A parquet file that has the columns.
        columns: One name, or several.
        texts: Whether one column may hold text.

    Raises:
        UserError: A value is missing, lists differ in length, or a column is not of numbers.
    """
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    require_memory(about.num_rows * 8 * len(listed(columns)), path)
    table = pq.read_table(path, columns=listed(columns), partitioning=None)
    arrays = [_values(table.column(name).combine_chunks(), f"{path}, column {name}")
              for name in listed(columns)]
    if any(array.dtype.kind == "O" for array in arrays) and not (texts and len(arrays) == 1):
        raise UserError(f"{path}: {columns} holds text; name columns of numbers, or write the "
                        "text to a file for the reader `text`")
    if isinstance(columns, str):
        (found,) = arrays
        return found.astype(np.float32) if found.dtype == np.float64 else found
    return np.stack([array.astype(np.float32) for array in arrays], axis=1)


def _values(array: Any, where: str) -> NDArray[Any]:
    """Return an Arrow array of numbers, texts or equally long lists of numbers, ``(n, ...)``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(array)]
    while True:
        if array.null_count:
            row = array.is_null().index(True).as_py()
            raise UserError(f"{where}: the value in row {row // max(1, len(array) // shape[0])} "
                            "(counted from 0) is missing; fill it in, or remove the row")
        kind = array.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)
                or pa.types.is_fixed_size_list(kind)):
            break
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if len(lengths) != 1:
            raise UserError(f"{where}: lists of {min(lengths)} to {max(lengths)} values; make "
                            "them equally long")
        shape.append(lengths[0])
        array = array.flatten()
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_decimal(kind):
        array, kind = array.cast(pa.float64()), pa.float64()
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)):
        raise UserError(f"{where}: its type is {kind}; name columns of numbers, texts (targets) "
                        "or images (inputs)")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)
