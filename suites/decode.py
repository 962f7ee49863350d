"""From files to arrays, for each layout; nothing read from a file is ever executed."""

from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.errors import UserError

from . import batches, published
from .arrays import stratified
from .sources import BATCHES, IDX, KNOWN, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from .arrays import Arrays
    from .sources import Facts

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
        _idx_file(path, name) for path, name in zip(source.files, IDX, strict=True))
    return ((images[:, None], labels.astype(np.int64)),
            (test_images[:, None], test_labels.astype(np.int64)))


def _idx_file(path: Path, name: str) -> NDArray[np.uint8]:
    """Reads unsigned bytes in the IDX format: magic 0 0 8 d, d big-endian sizes, values."""
    content = published.checked(path, name, published.read(path))
    dimensions = 3 if "idx3" in name else 1
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4"))
    size = math.prod(shape) if len(shape) == dimensions else -1
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + size:
        raise UserError(f"{path} is no whole IDX file of {dimensions} dimension(s); fetch it "
                        "again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _batches(source: Source) -> tuple[Half, Half]:
    contents: Iterator[tuple[Path, bytes]]
    if source.kind == "batches":
        contents = ((path, published.checked(path, name, published.read(path)))
                    for path, name in zip(source.files, BATCHES, strict=True))
    else:
        (archive,) = source.files
        contents = published.members(archive, published.read(archive), BATCHES)
    halves = [batches.parse(path, content) for path, content in contents]
    images = np.concatenate([x for x, _ in halves[:-1]])
    labels = np.concatenate([y for _, y in halves[:-1]])
    return (images, labels), halves[-1]


def _parquet(source: Source) -> tuple[Half, Half]:
    train = [path for path in source.files if path.name.startswith("train-")]
    test = [path for path in source.files if path.name.startswith("test-")]
    return _parquet_half(source.name, train), _parquet_half(source.name, test)


def _parquet_half(name: str, files: list[Path]) -> Half:
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = KNOWN[name]
    path = files[0]
    try:
        total = 0
        for path in files:
            total += _rows(path, facts)
        images = np.empty((total, *facts.shape), dtype=np.uint8)
        labels = np.empty(total, dtype=np.int64)
        row = itertools.count()
        for path in files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(2_048, columns=[facts.column, "label"]):
                    encoded = batch.column(0).field("bytes").to_pylist()
                    for png, label in zip(encoded, batch.column(1).to_pylist(), strict=True):
                        at = next(row)
                        images[at] = _image(png, facts.shape, path, at)
                        labels[at] = label
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError,
            AttributeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable parquet file of '{name}' ({reason}); fetch it "
                        "again") from error
    return images, labels


def _rows(path: Path, facts: Facts) -> int:
    """Counts a shard's rows, before memory is reserved for what it claims to hold."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > facts.samples or size > published.MOST_BYTES:
        raise UserError(f"{path} claims {about.num_rows:,} rows of {size:,} bytes, more than the "
                        "published files have; fetch it again")
    return int(about.num_rows)


def _image(encoded: bytes, shape: tuple[int, ...], path: Path, row: int) -> NDArray[np.uint8]:
    """Decodes a PNG or JPEG to uint8 ``(C, H, W)``."""
    from PIL import Image

    channels, height, width = shape
    try:
        # Of PIL's formats, some start other programs.
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
            if image.size != (width, height) or image.mode != ("L" if channels == 1 else "RGB"):
                raise UserError(f"{path}, image {row}: {image.mode} {image.size}, expected "
                                f"{channels} channel(s) of {width}x{height}")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}, image {row}: damaged ({error}); fetch the file again") \
            from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
