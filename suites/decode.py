"""From files to arrays, for each layout; nothing read from a file is ever executed."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import pickle
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.errors import UserError

from .arrays import stratified
from .sources import BATCHES, KNOWN, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from .arrays import Arrays

MD5: dict[str, str] = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""Checksums of the published files by name: torchvision's, and those of the unpacked IDX files."""

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


def _checked(path: Path, content: bytes) -> bytes:
    """Returns the content if the file's name is unknown or its checksum the published one."""
    expected = MD5.get(path.name)
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected not in (None, actual):
        raise UserError(f"{path} is not the published file (md5 {actual}, expected {expected}): "
                        "damaged or cut off; fetch it again")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _idx(source: Source) -> tuple[Half, Half]:
    images, labels, test_images, test_labels = (_idx_file(path) for path in source.files)
    return ((images[:, None], labels.astype(np.int64)),
            (test_images[:, None], test_labels.astype(np.int64)))


def _idx_file(path: Path) -> NDArray[np.uint8]:
    """Reads unsigned bytes in the IDX format: magic 0 0 8 d, d big-endian sizes, values."""
    content = _checked(path, _read(path))
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is no readable gzip file ({error}); fetch it again") \
                from error
    dimensions = 3 if "idx3" in path.name else 1
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4"))
    size = int(np.prod(shape)) if len(shape) == dimensions else -1
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != start + size:
        raise UserError(f"{path} is no whole IDX file of {dimensions} dimension(s); fetch it "
                        "again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """Knows the few names that a CIFAR batch needs; any other pickle fails unexecuted."""

    ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    })

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        if name == "_reconstruct":  # numpy 2 moved it
            return np.empty(0).__reduce__()[0]
        return super().find_class(module, name)


def _batches(source: Source) -> tuple[Half, Half]:
    halves = [_batch(path, content) for path, content in _batch_contents(source)]
    images = np.concatenate([x for x, _ in halves[:-1]])
    labels = np.concatenate([y for _, y in halves[:-1]])
    return (images, labels), halves[-1]


def _batch_contents(source: Source) -> Iterator[tuple[Path, bytes]]:
    if source.kind == "batches":
        for path in source.files:
            yield path, _checked(path, _read(path))
        return
    (archive,) = source.files
    content = _checked(archive, _read(archive))
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            for name in BATCHES:
                member = tar.extractfile(f"cifar-10-batches-py/{name}")
                if member is None:
                    raise KeyError(name)
                path = archive / name
                yield path, _checked(path, member.read())
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} is no whole CIFAR-10 archive ({error}); fetch it again") \
            from error


def _batch(path: Path, content: bytes) -> Half:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        return images, np.asarray(batch[b"labels"], dtype=np.int64)
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(f"{path} is no CIFAR-10 batch ({error}); fetch it again") from error


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
            total += pq.read_metadata(path).num_rows
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


def _image(encoded: bytes, shape: tuple[int, ...], path: Path, row: int) -> NDArray[np.uint8]:
    """Decodes a PNG or JPEG to uint8 ``(C, H, W)``."""
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.size != (width, height) or image.mode != ("L" if channels == 1 else "RGB"):
                raise UserError(f"{path}, image {row}: {image.mode} {image.size}, expected "
                                f"{channels} channel(s) of {width}x{height}")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}, image {row}: damaged ({error}); fetch the file again") \
            from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
