"""What is found where, and the one line for what is missing, damaged or malicious."""

import functools
import gzip
import hashlib
import http.client
import http.server
import os
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from refused import refusal
from torchvision.datasets import CIFAR10, MNIST

from bench_apts.suites import data, data_files
from bench_apts.suites.known_data import KNOWN
from bench_apts.suites.readers import torchvision_data


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, own_cache):
    message = refusal("mnist", tmp_path)
    for words in ("'mnist'", str(tmp_path), str(own_cache), "--data-dir", "BENCH_APTS_DATA",
                  "--offline"):
        assert words in message


def test_data_folder_that_is_none(tmp_path):
    assert "not a folder" in refusal("cifar10", tmp_path / "misspelt")


def test_incomplete_layouts_are_named(tmp_path, mini, write_idx, write_batches, write_parquet):
    write_idx(tmp_path / "a", mini.mnist, compressed=True)
    (tmp_path / "a" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "lacks t10k-labels-idx1-ubyte" in refusal("mnist", tmp_path / "a")
    write_batches(tmp_path / "b", mini.cifar10)
    (tmp_path / "b" / "data_batch_3").unlink()
    assert "lacks data_batch_3" in refusal("cifar10", tmp_path / "b")
    write_parquet(tmp_path / "c", mini.mnist, "image", shards=2)
    (tmp_path / "c" / "train-00001-of-00002.parquet").unlink()
    assert "of which 1 of train are there" in refusal("mnist", tmp_path / "c")
    (tmp_path / "c" / "train-00000-of-00002.parquet").unlink()
    assert "lacks its train-*.parquet" in refusal("mnist", tmp_path / "c")


def test_folder_of_another_data_set_is_not_taken(tmp_path, mini, write_parquet):
    write_parquet(tmp_path, mini.cifar10, "img")
    assert "no data for 'mnist'" in refusal("mnist", tmp_path)


def test_images_of_another_size_are_refused(tmp_path, mini, write_parquet):
    write_parquet(tmp_path, mini.cifar10, "image")
    assert "shape (1, 28, 28)" in refusal("mnist", tmp_path)


def test_labels_out_of_range_are_refused(tmp_path, mini, write_parquet):
    (x, y), test = mini.mnist
    write_parquet(tmp_path, ((x, y + 1), test), "image")
    assert "labels from 1 to 10" in refusal("mnist", tmp_path)


def test_user_folder_comes_before_the_cache(tmp_path, own_cache, mini, write_idx):
    write_idx(tmp_path / "mine", mini.mnist, compressed=False)
    write_idx(own_cache / "data" / "MNIST" / "raw", mini.mnist, compressed=True)
    assert str(tmp_path / "mine") in data.prepare("mnist", tmp_path / "mine", True).source
    assert str(own_cache / "data" / "MNIST" / "raw") in data.prepare("mnist", None, True).source


def test_broken_parquet_names_the_file(tmp_path, mini, write_parquet):
    write_parquet(tmp_path, mini.mnist, "image")
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refusal("mnist", tmp_path)
    path.write_bytes(b"")
    assert str(path) in refusal("mnist", tmp_path)


def test_parquet_broken_inside_names_the_file(tmp_path, mini, write_parquet):
    write_parquet(tmp_path, mini.mnist, "image")
    path = tmp_path / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100:4_000] = np.random.default_rng(0).bytes(3_900)
    path.write_bytes(content)
    assert str(path) in refusal("mnist", tmp_path)


def test_broken_image_names_file_and_row(tmp_path, mini, write_parquet):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_parquet(tmp_path, mini.mnist, "image")
    path = tmp_path / "test-00000-of-00001.parquet"
    cells = pq.read_table(path).to_pydict()
    cells["image"][3]["bytes"] = cells["image"][3]["bytes"][:60]
    pq.write_table(pa.table(cells), path)
    message = refusal("mnist", tmp_path)
    assert f"{path.name}, image 3 (" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("content", [
    b"", b"\x1f\x8b no gzip", gzip.compress(bytes(50), mtime=1)[:-9]])
def test_broken_gzip_names_the_file(tmp_path, mini, write_idx, content):
    write_idx(tmp_path, mini.mnist, compressed=True)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    assert str(path) in refusal("mnist", tmp_path)


def test_truncated_batch_and_archive_are_refused(tmp_path, mini, write_batches):
    write_batches(tmp_path / "a", mini.cifar10)
    path = tmp_path / "a" / "test_batch"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refusal("cifar10", tmp_path / "a")
    write_batches(tmp_path / "b", mini.cifar10, archive=True)
    path = tmp_path / "b" / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-2_000])
    assert str(path) in refusal("cifar10", tmp_path / "b")


def test_checksums_cover_what_torchvision_downloads():
    names = {name.removesuffix(".gz") for name, _ in MNIST.resources}
    assert names == KNOWN["mnist"].sha256.keys()
    assert KNOWN["cifar10"].sha256.keys() == dict(CIFAR10.train_list + CIFAR10.test_list).keys()
    assert KNOWN["cifar10"].archive == CIFAR10.filename
    assert KNOWN["cifar10"].folder == CIFAR10.base_folder


def plain(path):
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def renamed(folder, change):
    """Gives each published file the name and content that ``change`` makes of its own."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name, content = change(path.name.removesuffix(".gz"), plain(path))
        path.unlink()
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


NAMES = {
    "Kaggle's": lambda name, content: (name.replace("-idx", ".idx"), content),
    "Kaggle's folders": lambda name, content: (f"{name}/{name}", content),
    "unpacked by a browser": lambda name, content: (f"{name}.gz", content),
    "packed again": lambda name, content: (
        f"{name}.gz", gzip.compress(content, compresslevel=1, mtime=7)),
    "packed twice differently": lambda name, content: (
        f"{name}.GZ", gzip.compress(content[:50]) + gzip.compress(content[50:])),
    "upper case": lambda name, content: (name.upper(), content),
    "a second download": lambda name, content: (f"{name}(1).gz", gzip.compress(content)),
    "deeper": lambda name, content: (f"data/sets/{name}", content),
    "without a meaning": lambda name, content: (f"{sum(content)}.bin", content),
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("data_set", ["mnist", "cifar10"])
def test_published_files_are_known_by_content(
        tmp_path, mini, write_idx, write_batches, data_set, change):
    for folder in (tmp_path / "usual", tmp_path / "other"):
        if data_set == "mnist":
            write_idx(folder, mini.mnist, compressed=True)
        else:
            write_batches(folder, mini.cifar10)
    renamed(tmp_path / "other", change)
    (tmp_path / "other" / "notes.gz").write_bytes(b"no gzip")
    (tmp_path / "other" / "more.gz").write_bytes(b"\x1f\x8b no gzip either")
    usual, other = (data.prepare(data_set, tmp_path / place, offline=True)
                    for place in ("usual", "other"))
    assert usual.sha256 == other.sha256
    assert str(tmp_path / "other") in other.source


@pytest.mark.parametrize("name", ["cifar-10-python.tar", "cifar-10-python(1).tar.gz", "x/CIFAR"])
def test_an_archive_is_known_by_content(tmp_path, mini, write_batches, name):
    write_batches(tmp_path, mini.cifar10, archive=True)
    usual = data.prepare("cifar10", tmp_path, offline=True)
    content = plain(tmp_path / "cifar-10-python.tar.gz")
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert data.prepare("cifar10", tmp_path, offline=True).sha256 == usual.sha256


def test_another_data_set_of_the_same_form_is_skipped(tmp_path, mini, write_idx):
    """Fashion-MNIST has MNIST's file names, shapes and sizes."""
    (x, y), test = mini.mnist
    write_idx(tmp_path / "FashionMNIST" / "raw", ((255 - x, y[::-1]), test), compressed=True)
    write_idx(tmp_path / "digits", mini.mnist, compressed=True)  # the published ones from now on
    assert str(tmp_path / "digits") in data.prepare("mnist", tmp_path, offline=True).source
    shutil.rmtree(tmp_path / "digits")
    assert "no data for 'mnist'" in refusal("mnist", tmp_path)


def test_files_under_other_names_that_lack_one_are_named(tmp_path, mini, write_idx):
    write_idx(tmp_path, mini.mnist, compressed=False)
    renamed(tmp_path, NAMES["Kaggle's"])
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(b"\0\0\x08\x01 something else")
    assert "lacks t10k-labels-idx1-ubyte" in refusal("mnist", tmp_path)


def test_crowded_and_unreadable_folders_are_skipped(tmp_path, mini, write_idx, monkeypatch):
    write_idx(tmp_path / "deep" / "mnist", mini.mnist, compressed=False)
    os.mkfifo(tmp_path / "deep" / "pipe")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    assert data.prepare("mnist", tmp_path, offline=True)
    monkeypatch.setattr(data_files, "MAX_ENTRIES", 3)
    assert "no data for 'mnist'" in refusal("mnist", tmp_path)


@pytest.mark.slow
def test_checksums_are_those_of_the_real_images(real_data):
    """The unpacked IDX files follow from the images, whoever distributes them."""
    arrays = data.load(data.prepare("mnist", real_data, offline=True).folder)
    for stem, half in (("train", "train"), ("t10k", "test")):
        images, labels = getattr(arrays, f"{half}_inputs"), getattr(arrays, f"{half}_targets")
        for kind, array in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
            head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            content = head + array.astype(np.uint8).tobytes()
            assert KNOWN["mnist"].sha256[f"{stem}-{kind}-ubyte"] == hashlib.sha256(
                content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with the files of ``tmp_path / "mirror"``, taken for the published ones."""
    (tmp_path / "mirror").mkdir()
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / "mirror")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(MNIST, "resources", [(name, None) for name, _ in MNIST.resources])
    monkeypatch.setattr(CIFAR10, "url", url + CIFAR10.filename)
    monkeypatch.setattr(CIFAR10, "tgz_md5", None)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "test_batch", "key": "labels", "md5": None})
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield tmp_path / "mirror"
    server.shutdown()
    server.server_close()


def test_mnist_is_downloaded_into_the_cache_once(server, own_cache, mini, write_idx):
    write_idx(server, mini.mnist, compressed=True)
    prepared = data.prepare("mnist", None, offline=False)
    assert np.array_equal(data.load(prepared.folder).train_inputs, mini.mnist[0][0])
    assert str(own_cache / "data" / "MNIST" / "raw") in prepared.source
    assert not (own_cache / "data" / ".mnist.partial").exists()
    for path in server.iterdir():
        path.unlink()
    assert data.prepare("mnist", None, offline=False) == prepared


def test_cifar10_is_downloaded_into_the_cache_once(server, own_cache, mini, write_batches):
    write_batches(server, mini.cifar10, archive=True)
    prepared = data.prepare("cifar10", None, offline=False)
    assert np.array_equal(data.load(prepared.folder).test_inputs, mini.cifar10[1][0])
    assert [path.name for path in (own_cache / "data").iterdir()
            if not path.name.endswith(".lock")] == ["cifar-10-batches-py"]
    assert data.prepare("cifar10", None, offline=True) == prepared


def test_a_missing_and_a_wrong_file_on_the_server(server, own_cache, mini, write_idx):
    write_idx(server, mini.mnist, compressed=True)
    path = server / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(b"something else")
    assert "cannot download" in refusal("mnist", None, offline=False)
    path.unlink()
    assert "404" in refusal("mnist", None, offline=False)
    left = [path for path in (own_cache / "data").rglob("*") if not path.name.endswith(".lock")]
    assert left == []


@pytest.mark.parametrize("error", [
    urllib.error.URLError("Name or service not known"), http.client.IncompleteRead(b"two\nlines"),
    TimeoutError("timed out"), ConnectionResetError(104, "Connection reset by peer"),
])
def test_failed_download_gives_reason_and_remedy(own_cache, monkeypatch, error):
    def urlopen(request):
        assert socket.getdefaulttimeout() > 0
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    message = refusal("cifar10", None, offline=False)
    assert "cannot download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in message
    assert "--data-dir" in message
    assert not (own_cache / "data" / ".cifar10.partial").exists()
    assert socket.getdefaulttimeout() is None


def test_full_disk_in_download_blames_the_cache(monkeypatch):
    def fetch(kind, given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision_data, "fetch", fetch)
    assert "BENCH_APTS_CACHE" in refusal("mnist", None, offline=False)
