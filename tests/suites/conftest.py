"""Miniature data sets in every layout, made of the same random pixels."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

BATCH_SIZES = (6, 5, 4, 3, 2)


@pytest.fixture
def real_data() -> Path:
    """The user's real data, or a skip."""
    named = os.environ.get("BENCH_APTS_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "mnist").is_dir():
        pytest.skip("no real data: set BENCH_APTS_DATA")
    return folder


@pytest.fixture
def mini():
    """Twenty training and eight test samples of each image data set."""
    rng = np.random.default_rng(0)

    def images(n, *shape):
        return rng.integers(0, 256, (n, *shape), dtype=np.uint8)

    labels = np.arange(20) % 10, np.arange(8) % 10
    return SimpleNamespace(
        mnist=((images(20, 1, 28, 28), labels[0]), (images(8, 1, 28, 28), labels[1])),
        cifar10=((images(20, 3, 32, 32), labels[0]), (images(8, 3, 32, 32), labels[1])),
    )


def _encoded(image):
    from PIL import Image

    pixels = image.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def write_parquet():
    """Writes halves ((x, y), (x, y)) as train and test parquet files into a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(folder, halves, column, shards=1):
        folder.mkdir(parents=True, exist_ok=True)
        for half, (x, y) in zip(("train", "test"), halves, strict=True):
            for i, rows in enumerate(np.array_split(np.arange(len(y)), shards)):
                cells = [{"bytes": _encoded(x[row]), "path": None} for row in rows]
                table = pa.table({column: cells, "label": pa.array(y[rows], pa.int64())})
                pq.write_table(table, folder / f"{half}-{i:05d}-of-{shards:05d}.parquet")

    return write


@pytest.fixture
def write_idx(publish):
    """Writes halves as the four IDX files of MNIST, compressed or not."""

    def write(folder, halves, compressed):
        folder.mkdir(parents=True, exist_ok=True)
        for stem, (x, y) in zip(("train", "t10k"), halves, strict=True):
            for kind, array in (("images-idx3", x[:, 0]), ("labels-idx1", y)):
                head = bytes([0, 0, 8, array.ndim]) + struct.pack(
                    f">{array.ndim}I", *array.shape)
                content = head + array.astype(np.uint8).tobytes()
                name = f"{stem}-{kind}-ubyte"
                if compressed:
                    name, content = f"{name}.gz", gzip.compress(content)
                publish(folder / name, content)

    return write


class Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 did, as the published batches have it."""

    def save_string(self, value):
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}


def python2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.fixture
def write_batches(publish):
    """Writes halves as CIFAR-10's batches: a folder, or a .tar.gz of one."""

    def write(folder, halves, archive=False):
        (x, y), test = halves
        parts = np.split(np.arange(len(y)), np.cumsum(BATCH_SIZES)[:-1])
        batches = {f"data_batch_{i}": (x[rows], y[rows]) for i, rows in enumerate(parts, 1)}
        contents = {
            name: python2_pickle({"batch_label": name, "labels": [int(label) for label in labels],
                                  "data": images.reshape(len(labels), -1), "filenames": []})
            for name, (images, labels) in (batches | {"test_batch": test}).items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            publish(folder / name, content)
        if archive:
            pack_batches(folder, publish)

    return write


def pack_batches(folder, publish):
    """Replaces the batches in ``folder`` by a published archive of them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted([*folder.glob("data_batch_*"), folder / "test_batch"]):
            tar.add(path, f"cifar-10-batches-py/{path.name}")
            path.unlink()
    publish(folder / "cifar-10-python.tar.gz", packed.getvalue())


@pytest.fixture
def publish(monkeypatch):
    """Writes a file and makes what it holds the published content of its name."""
    from torchvision.datasets import CIFAR10

    from bench_apts.suites.known_data import KNOWN

    for known in KNOWN.values():
        for name, sha256 in known.sha256.items():
            monkeypatch.setitem(known.sha256, name, sha256)
    for batches in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, batches, [*map(list, getattr(CIFAR10, batches))])

    def publish(path, content):
        path.write_bytes(content)
        name = path.name.removesuffix(".gz")
        with contextlib.suppress(OSError, EOFError, zlib.error):
            content = gzip.decompress(content)
        for known in KNOWN.values():
            if name in known.sha256:
                known.sha256[name] = hashlib.sha256(content).hexdigest()
        for batch in (*CIFAR10.train_list, *CIFAR10.test_list):
            if batch[0] == name:
                batch[1] = hashlib.md5(content).hexdigest()

    return publish


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keeps every test out of the user's cache and away from the user's data."""
    monkeypatch.setenv("BENCH_APTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
