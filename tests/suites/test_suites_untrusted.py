"""Files that somebody made to do harm: checked before they are opened, and never run."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from refused import refusal

from bench_apts.suites import data, data_files
from bench_apts.suites.readers import reader_paths


def test_unpublished_content_is_refused(tmp_path, mini, write_idx):
    write_idx(tmp_path, mini.mnist, compressed=True)
    data.prepare("mnist", tmp_path, offline=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    before, content = path.stat(), gzip.decompress(path.read_bytes())[:-1] + b"x"
    path.write_bytes(gzip.compress(content, mtime=1))
    # Of the same size, it may also be of the same tick of the file system's clock.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    message = refusal("mnist", tmp_path)
    assert f"{path}: train-images-idx3-ubyte is not the published file" in message
    assert hashlib.sha256(content).hexdigest() in message


def forged(folder, content):
    """Puts another content in the place of data_batch_1, wherever it lies."""
    path = folder / "cifar-10-python.tar.gz"
    if not path.exists():
        (folder / "data_batch_1").write_bytes(content)
        return
    packed = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
        for member in old.getmembers():
            kept = old.extractfile(member).read()
            if member.name.endswith("data_batch_1"):
                kept, member.size = content, len(content)
            new.addfile(member, io.BytesIO(kept))
    path.write_bytes(packed.getvalue())


@pytest.mark.parametrize("archive", [False, True])
def test_unpublished_batches_are_refused_before_they_are_loaded(
        tmp_path, mini, write_batches, monkeypatch, archive):
    write_batches(tmp_path, mini.cifar10, archive=archive)
    forged(tmp_path, pickle.dumps(Malicious(tmp_path / "harm")))
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("loaded"))
    message = refusal("cifar10", tmp_path)
    assert "data_batch_1 is not the published file" in message
    assert str(tmp_path) in message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_under_another_name_is_not_even_loaded(
        tmp_path, mini, write_batches, monkeypatch, packed):
    write_batches(tmp_path, mini.cifar10)
    for path in list(tmp_path.glob("*_batch*")):
        path.rename(path.with_suffix(".pkl"))
    content = pickle.dumps({b"data": Malicious(tmp_path / "harm")}, 2)
    (tmp_path / "data_batch_2.pkl").write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("loaded"))
    assert "lacks data_batch_2" in refusal("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_file_larger_than_any_published_one_is_not_even_read(tmp_path, mini, write_idx):
    write_idx(tmp_path, mini.mnist, compressed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole: reading it all would take a terabyte
    assert "1,099,511,627,776 bytes, more than the published file" in refusal("mnist", tmp_path)


def bomb(megabytes):
    """A gzip file of zeros, a thousandth as large as what it unpacks to."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(megabytes)), packer.flush()])


@pytest.mark.parametrize(("data_set", "name"), [
    ("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "cifar-10-python.tar.gz")])
def test_a_decompression_bomb_stops_at_the_published_size(
        tmp_path, mini, write_idx, publish, monkeypatch, data_set, name):
    write_idx(tmp_path, mini.mnist, compressed=True)
    monkeypatch.setattr(data_files, "MAX_BYTES", 2**20)
    publish(tmp_path / name, bomb(64))
    tracemalloc.start()
    message = refusal(data_set, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{tmp_path / name} unpacks to more than 1,048,576 bytes" in message
    assert peak < 16 * 2**20


ESCAPED = Path(tempfile.gettempdir()) / f"escaped-{os.getpid()}"


def archive(change):
    """The batches' archive with ``change(member)`` made to what describes data_batch_2."""
    def write(tmp_path, publish):
        packed = io.BytesIO()
        source = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(source) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
            for member in old.getmembers():
                content = old.extractfile(member).read()
                if member.name.endswith("data_batch_2"):
                    change(member)
                new.addfile(member, io.BytesIO(content) if member.isreg() else None)
        publish(source, packed.getvalue())
    return write


def absolute(member):
    member.name = str(ESCAPED)


def parent(member):
    member.name = "../../../escaped"


def symbolic(member):
    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0


def hard(member):
    member.type, member.linkname, member.size = tarfile.LNKTYPE, "../../../../etc/passwd", 0


def folder(member):
    member.type, member.size = tarfile.DIRTYPE, 0


def device(member):
    member.type, member.size = tarfile.CHRTYPE, 0


@pytest.mark.parametrize("change", [absolute, parent, symbolic, hard, folder, device])
def test_a_path_that_escapes_or_is_no_file_is_refused(
        tmp_path, mini, write_batches, publish, own_cache, change):
    place = tmp_path / "data"
    write_batches(place, mini.cifar10, archive=True)
    archive(change)(place, publish)
    before = {path for path in tmp_path.rglob("*") if own_cache not in path.parents}
    message = refusal("cifar10", place)
    assert "cifar-10-python.tar.gz" in message
    assert "data_batch_2" in message
    after = {path for path in tmp_path.rglob("*") if own_cache not in path.parents}
    assert after - {own_cache} == before - {own_cache}
    assert not ESCAPED.exists()
    assert not list(own_cache.rglob("*.npy"))


def test_parquet_that_claims_too_much_is_refused_before_memory_is_reserved(
        tmp_path, mini, write_parquet, monkeypatch):
    write_parquet(tmp_path, mini.mnist, "image")
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 2_000)
    monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("reserved"))
    assert "more than half of the 2,000" in refusal("mnist", tmp_path)


@pytest.mark.parametrize("kind", ["GIF", "EPS"])
def test_images_of_other_formats_are_not_given_to_other_decoders(
        tmp_path, mini, write_parquet, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    write_parquet(tmp_path, mini.mnist, "image")
    path = tmp_path / "test-00000-of-00001.parquet"
    cells = pq.read_table(path).to_pydict()
    encoded = io.BytesIO()
    Image.fromarray(mini.mnist[1][0][0, 0]).save(encoded, kind)
    cells["image"][3]["bytes"] = encoded.getvalue()
    pq.write_table(pa.table(cells), path)
    message = refusal("mnist", tmp_path)
    assert f"{path.name}, image 3 (not an image)" in message
    assert str(tmp_path) in message


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_batch_is_refused_unexecuted(
        tmp_path, mini, write_batches, publish, protocol):
    write_batches(tmp_path, mini.cifar10)
    harmful = pickle.dumps({b"data": Malicious(tmp_path / "harm"), b"labels": [1, 2]}, protocol)
    publish(tmp_path / "data_batch_2", harmful)
    assert "may run code" in refusal("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()
    pickle.loads(harmful)
    assert (tmp_path / "harm").exists(), "it would have"
