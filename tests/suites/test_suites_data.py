"""prepare, load and split: layouts, cache, concurrency, fingerprints."""

import json
import multiprocessing
import os
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.core.errors import UserError
from bench_apts.suites import arrays, data, data_files


def same(dataset, halves):
    (train_x, train_y), (test_x, test_y) = halves
    return all((
        np.array_equal(dataset.train_inputs, train_x),
        np.array_equal(dataset.train_targets, train_y),
        np.array_equal(dataset.test_inputs, test_x),
        np.array_equal(dataset.test_targets, test_y),
    ))


def test_digits_need_no_files():
    prepared = data.prepare("digits", None, offline=True)
    dataset = data.load(prepared.folder)
    assert dataset.input_shape == (64,)
    assert dataset.train_inputs.dtype == np.float32
    assert dataset.train_inputs.min() == 0
    assert dataset.train_inputs.max() == 1
    assert (len(dataset.train_targets), len(dataset.test_targets)) == (1_497, 300)
    assert dataset.classes == 10
    # Frozen for ever: a change of this hash makes all older records incomparable.
    assert prepared.sha256 == dataset.sha256 == (
        "bc60cb899671d9b06a74b21bb869af3da0df4fb63c0d16f0aa86a8901916dbb2")


def test_mnist_fingerprint_is_the_same_in_every_layout(tmp_path, mini, write_idx, write_parquet):
    write_idx(tmp_path / "a" / "MNIST" / "raw", mini.mnist, compressed=True)
    write_idx(tmp_path / "b", mini.mnist, compressed=False)
    write_parquet(tmp_path / "c" / "mnist" / "mnist", mini.mnist, "image")
    write_parquet(tmp_path / "d", mini.mnist, "image", shards=3)
    prepared = [data.prepare("mnist", tmp_path / x, offline=True) for x in "abcd"]
    assert len({p.sha256 for p in prepared}) == 1
    assert len({p.folder for p in prepared}) == 4
    for p in prepared:
        dataset = data.load(p.folder)
        assert same(dataset, mini.mnist)
        assert dataset.train_inputs.dtype == np.uint8
        assert dataset.train_targets.dtype == np.int64
        assert (dataset.mean, dataset.std) == ((0.1307,), (0.3081,))
        assert p.source == dataset.source
    assert "IDX" in prepared[0].source
    assert "parquet" in prepared[2].source


def test_cifar_fingerprint_is_the_same_in_every_layout(
    tmp_path, mini, write_batches, write_parquet
):
    write_batches(tmp_path / "a" / "cifar-10-batches-py", mini.cifar10)
    write_batches(tmp_path / "b", mini.cifar10, archive=True)
    write_parquet(tmp_path / "c" / "cifar10" / "plain_text", mini.cifar10, "img")
    write_parquet(tmp_path / "d" / "plain_text", mini.cifar10, "img")
    prepared = [data.prepare("cifar10", tmp_path / x, offline=True) for x in "abcd"]
    assert len({p.sha256 for p in prepared}) == 1
    for p in prepared:
        dataset = data.load(p.folder)
        assert same(dataset, mini.cifar10)
        assert len(dataset.mean) == 3


def test_fingerprint_sees_values_shapes_and_dtypes():
    base = {name: np.arange(6, dtype=np.int64) for name in arrays.NAMES}
    variants = [base, base | {"test_targets": np.arange(6)[::-1]},
                base | {"test_targets": np.arange(6).reshape(2, 3)},
                base | {"test_targets": np.arange(6, dtype=np.uint64)}]
    assert len({arrays.fingerprint(variant) for variant in variants}) == len(variants)


def test_second_call_decodes_nothing(tmp_path, mini, write_parquet, monkeypatch):
    write_parquet(tmp_path / "mnist", mini.mnist, "image")
    first = data.prepare("mnist", tmp_path, offline=True)
    monkeypatch.setattr(data_files, "decode", lambda *_: pytest.fail("decoded again"))
    assert data.prepare("mnist", tmp_path, offline=True) == first


def test_changed_source_is_decoded_anew(tmp_path, mini, write_parquet):
    write_parquet(tmp_path / "mnist", mini.mnist, "image")
    first = data.prepare("mnist", tmp_path, offline=True)
    train, test = mini.mnist
    write_parquet(tmp_path / "mnist", (test, train), "image")
    second = data.prepare("mnist", tmp_path, offline=True)
    assert second.sha256 != first.sha256
    assert same(data.load(second.folder), (test, train))


def truncate(folder):
    with (folder / "train_inputs.npy").open("ab") as file:
        file.truncate(200)


def other_dtype(folder):
    x = np.load(folder / "test_targets.npy")
    np.save(folder / "test_targets.npy", x.view(np.uint64))


def cut_meta(folder):
    (folder / "meta.json").write_text((folder / "meta.json").read_text()[:50])


def old_version(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"version": 0}))


def drop_array(folder):
    (folder / "test_inputs.npy").unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "damage", [truncate, other_dtype, cut_meta, old_version, drop_array, empty])
def test_damaged_cache_is_seen_and_rebuilt(damage):
    prepared = data.prepare("digits", None, offline=True)
    damage(prepared.folder)
    with pytest.raises(UserError, match="no complete data set"):
        data.load(prepared.folder)
    assert data.prepare("digits", None, offline=True) == prepared
    assert len(data.load(prepared.folder).train_targets) == 1_497


def test_interrupted_decoding_leaves_nothing_behind(own_cache, monkeypatch):
    def interrupted(source, scratch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_files, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.prepare("digits", None, offline=True)
    left = [p for p in (own_cache / "arrays").iterdir() if p.is_dir()]
    assert left == []
    # A killed process cannot clean up; the next one does.
    folder = data.prepare("digits", None, offline=True).folder
    shutil.rmtree(folder)
    stale = folder.with_name(f".{folder.name}.partial")
    stale.mkdir()
    (stale / "train_inputs.npy").write_bytes(b"half")
    data.prepare("digits", None, offline=True)
    assert not stale.exists()


def _prepare_slowly(folder, cache, both, counter, answers):
    def slowly(source, scratch):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.5)  # long enough that the other process arrives meanwhile
        return original(source, scratch)

    original, data_files.decode = data_files.decode, slowly
    both.wait(200)
    answers.put(data.prepare("mnist", folder, offline=True, cache=cache))


def test_two_processes_prepare_at_once(tmp_path, mini, write_parquet):
    write_parquet(tmp_path / "mnist", mini.mnist, "image")
    # A fork would take over locks that threads of this process hold.
    context = multiprocessing.get_context("spawn")
    both, counter, answers = context.Barrier(2), context.Value("i", 0), context.Queue()
    processes = [
        context.Process(target=_prepare_slowly,
                        args=(tmp_path, tmp_path / "own", both, counter, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    first, second = answers.get(timeout=200), answers.get(timeout=200)
    for process in processes:
        process.join()
    assert first == second
    assert counter.value == 1
    assert same(data.load(first.folder), mini.mnist)


def test_too_little_space_names_folder_and_bytes(own_cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(UserError, match=r"[\d,]+ bytes needed, 1 free") as caught:
        data.prepare("digits", None, offline=True)
    assert str(own_cache) in str(caught.value)
    assert "BENCH_APTS_CACHE" in str(caught.value)


def test_unwritable_cache_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="BENCH_APTS_CACHE"):
        data.prepare("digits", None, offline=True, cache=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_cache_names_the_remedy(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="BENCH_APTS_CACHE"):
        data.prepare("digits", None, offline=True, cache=tmp_path / "locked")


def test_full_disk_while_writing_names_the_remedy(monkeypatch):
    def full(file, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*BENCH_APTS_CACHE"):
        data.prepare("digits", None, offline=True)


def test_unknown_name():
    with pytest.raises(UserError, match="did you mean mnist"):
        data.prepare("minst", None, offline=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_real_data(real_data, name, shape):
    dataset = data.load(data.prepare(name, real_data, offline=True).folder)
    assert dataset.input_shape == shape
    assert len(dataset.test_targets) == 10_000
    pixels = dataset.train_inputs[:10_000] * dataset.scale
    assert np.allclose(pixels.mean(axis=(0, 2, 3)), dataset.mean, atol=0.01)
    assert np.allclose(pixels.std(axis=(0, 2, 3)), dataset.std, atol=0.01)
    train, validation = data.split(dataset.train_targets, 5_000, name)
    assert len(np.intersect1d(train, validation)) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.data())
def test_split_properties(labels, draw):
    targets = np.array(labels, dtype=np.int64)
    number = draw.draw(st.integers(1, len(targets) - 1))
    train, validation = data.split(targets, number, "any")
    assert len(validation) == number
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(targets)))
    assert train.dtype == validation.dtype == np.int64
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    for label in range(5):
        share = number * np.mean(targets == label)
        assert abs(np.sum(targets[validation] == label) - share) <= 1
    again = data.split(targets, number, "any")
    assert np.array_equal(again[0], train)


def test_split_depends_on_the_name_and_never_changes():
    targets = np.arange(1_000) % 10
    _, a = data.split(targets, 100, "mnist")
    _, b = data.split(targets, 100, "cifar10")
    assert not np.array_equal(a, b)
    # Frozen for ever: the records of all versions share one split.
    assert a[:6].tolist() == [2, 7, 16, 20, 35, 43]


@pytest.mark.parametrize("number", [0, 10, 11])
def test_split_that_leaves_nothing(number):
    with pytest.raises(UserError, match="leaves no training or no validation"):
        data.split(np.arange(10), number, "digits")
