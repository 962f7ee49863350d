"""Parquet files, as data sets on the Hugging Face hub come in: images, numbers and texts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, describe_error, unknown
from bench_apts.suites.readers.image_files import Shape, Stack
from bench_apts.suites.readers.reader_paths import candidates, existing, matching, require_memory
from bench_apts.suites.readers.split_checks import PARTS, assembled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench_apts.suites.readers.image_files import Size
    from bench_apts.suites.readers.reader_paths import PathName
    from bench_apts.suites.readers.split_checks import Splits


def _listed(columns: str | Sequence[str]) -> list[str]:
    """Return names of columns as a list, also a single one."""
    return [columns] if isinstance(columns, str) else list(columns)


def _encoded(kind: Any) -> bool:
    """Return whether a column of this Arrow type holds encoded images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _stored(path: Path, columns: str | Sequence[str], texts: bool = False) -> NDArray[Any]:
    """Return a column of a file as it is stored, or several as float32 ``(n, k)``."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    require_memory(about.num_rows * 8 * len(_listed(columns)), path)
    table = pq.read_table(path, columns=_listed(columns), partitioning=None)
    arrays = [_values(table.column(name).combine_chunks(), f"{path}, column {name}")
              for name in _listed(columns)]
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


_SPLIT = {"train": "train", "test": "test", "val": "validation", "valid": "validation",
          "validation": "validation"}
_NAME = re.compile(rf"({'|'.join(sorted(_SPLIT, reverse=True))})(?:[-_.].*)?\.parquet")
_SHARD = re.compile(r".*-\d+-of-(\d+)\.parquet")


def parquet(files: PathName | Sequence[PathName], inputs: str | Sequence[str] = "image",
            targets: str | Sequence[str] = "label", size: Size = None,
            channels: int | None = None, test_share: float = 0.2,
            data_dir: PathName | None = None) -> Splits:
    """Read parquet files: images, numeric columns or lists of numbers, with their targets.

    Files whose names begin with ``train``, ``test``, ``validation``, ``valid`` or ``val`` are of
    that split (a validation split without a test split is the test split); files with other names
    are divided by content. Texts of the target column become classes, numbered in sorted order.

    Args:
        files: A file, a folder with the files, a glob pattern, or a list of files.
        inputs: The column of images (structures with ``bytes``, or binary) or of numbers or
            equally long lists, or the list of numeric columns that form a sample's features.
        targets: The column of classes (integers, texts, booleans) or values (floats), or the
            list of numeric columns that form a sample's values.
        size: Height and width in pixels to which images are resized, one number for both; needed
            if they are not equally large.
        channels: 1 (gray) or 3 (RGB); that of the first image without it.
        test_share: Of data without splits; more than 0 and less than 1.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs uint8 ``(n, C, H, W)`` of images, float32 ``(n, k)`` of several numeric
        columns, ``(n, 1)`` or ``(n, ...)`` of one, in the file's dtype (float32 for float64);
        targets int64 ``(n,)``, or float32 ``(n,)`` or ``(n, k)``.

    Raises:
        UserError: A file or column is missing or damaged, a shard is missing, a value is null, or
            a column has another type.
    """
    splits, where = read_splits(files, inputs, targets, Shape.of(size, channels), data_dir)
    return assembled(splits, where, test_share)


def read_splits(files: PathName | Sequence[PathName],
                inputs: str | Sequence[str], targets: str | Sequence[str], shape: Shape,
                data_dir: PathName | None = None) -> tuple[Splits, str]:
    """Return the splits that the files' names tell apart, as stored, and what to call the files.

    Arguments and errors are those of ``parquet``.
    """
    parts, where = _parts(files, data_dir)
    if not _listed(inputs) or not _listed(targets):
        raise UserError(f"{where}: the options inputs and targets need a column each")
    return {part: _part(paths, inputs, targets, shape) for part, paths in parts.items()}, where


def _parts(files: PathName | Sequence[PathName],
           data_dir: PathName | None) -> tuple[dict[str, list[Path]], str]:
    """Return the files of each split, sorted by name, and what to call them in messages."""
    if isinstance(files, (str, os.PathLike)):
        named, paths = Path(files), _found(files, data_dir)
    else:
        named, paths = Path(*files[:1]), sorted(existing(file, data_dir) for file in files)
    if not paths:
        raise UserError(f"{named}: no parquet files there; name a folder, a file or a pattern "
                        "such as data/*.parquet")
    splits = [_NAME.fullmatch(path.name) for path in paths]
    parts: dict[str, list[Path]] = {}
    for path, match in zip(paths, splits, strict=True):
        parts.setdefault(_SPLIT[match[1]] if match and all(splits) else "train", []).append(path)
    if "train" not in parts:
        raise UserError(f"{named}: has files of {', '.join(parts)} but none of train")
    for part, chosen in parts.items():
        for path in chosen:
            shard = _SHARD.fullmatch(path.name)
            if shard and int(shard[1]) != len(chosen):
                raise UserError(f"{path} is one of {int(shard[1])} shards, of which "
                                f"{len(chosen)} of {part} are there; fetch the others too")
    return {part: parts[part] for part in PARTS if part in parts}, str(named)


def _found(named: PathName, data_dir: PathName | None) -> list[Path]:
    """Return the one file, the files of the folder, or those that match the pattern."""
    for place in candidates(named, data_dir):
        if place.is_file():
            return [place]
        if place.is_dir():
            return sorted(place.glob("*.parquet"))
    return matching(named, data_dir)


def _part(paths: list[Path], inputs: str | Sequence[str], targets: str | Sequence[str],
          shape: Shape) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a split's inputs and its targets as they are stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = paths[0]
    try:
        rows = 0
        for path in paths:
            rows += _rows(path, [*_listed(inputs), *_listed(targets)])
        path = paths[0]
        kind = pq.read_schema(path).field(_listed(inputs)[0]).type
        label = np.concatenate([_stored(path, targets, texts=True) for path in paths])
        if not isinstance(inputs, str) or not _encoded(kind):
            found = np.concatenate([_stored(path, inputs) for path in paths])
            return (found[:, None] if found.ndim == 1 else found), label
        stack, row = Stack(rows, shape, path.parent), 0
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(256, columns=[inputs]):
                    column = batch.column(0)
                    images = column.field("bytes") if pa.types.is_struct(kind) else column
                    for image in images.to_pylist():
                        stack.put(row, image or b"", f"{path.name}, image {row}")
                        row += 1
        return stack.finish(), label
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, OverflowError,
            MemoryError) as error:
        raise UserError(f"{path} cannot be read as parquet ({describe_error(error)}); fetch or "
                        "write it again") from error


def _rows(path: Path, columns: list[str]) -> int:
    """Return the number of rows, after a look at the columns and at what they claim to take."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    names = about.schema.to_arrow_schema().names
    for column in columns:
        if column not in names:
            raise unknown("column", column, names, f"({path}; options inputs and targets)")
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    require_memory(max((group.total_byte_size for group in groups), default=0), path)
    if about.num_rows != sum(group.num_rows for group in groups) or not about.num_rows:
        raise UserError(f"{path} has no rows, or its header is damaged; fetch or write it again")
    return int(about.num_rows)
