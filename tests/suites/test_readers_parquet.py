"""Parquet files: the hub's layouts, columns of every kind, and files that lie about themselves."""

import decimal
import io
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench_apts.core.errors import UserError
from bench_apts.suites import data_files
from bench_apts.suites.readers import parquet, reader_paths


def save(folder, name="train-00000-of-00001", **columns):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def encoded(number, seed=0, size=(5, 4), mode="RGB", format="PNG"):
    rng, cells = np.random.default_rng(seed), []
    for _ in range(number):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(file, format)
        cells.append(file.getvalue())
    return cells


def table(folder, **train):
    """Writes twelve training and six test rows of features beside given training columns."""
    rng = np.random.default_rng(1)
    for name, rows in (("train-00000-of-00001", 12), ("test-00000-of-00001", 6)):
        columns = {"x": rng.random(rows), "label": np.arange(rows) % 3}
        save(folder, name, **columns | (train if rows == 12 else {}))
    return folder


def test_mnist_from_the_hubs_files_is_what_the_project_decodes(real_data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parquet(real_data / "mnist" / "mnist")
    ours, _ = data_files.decode(next(data_files.sources("mnist", real_data)), tmp_path)
    for part, pair in found.items():
        for name, array in zip(("inputs", "targets"), pair, strict=True):
            expected = ours[f"{part}_{name}"]
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)


@pytest.mark.parametrize("named", ["folder", "pattern", "list"])
def test_shards_follow_each_other_by_name(mini, write_parquet, tmp_path, named):
    write_parquet(tmp_path, mini.cifar10, "img", shards=3)
    files = {"folder": tmp_path, "pattern": str(tmp_path / "t*.parquet"),
             "list": [str(path) for path in tmp_path.iterdir()]}[named]
    found = parquet(files, inputs="img")
    for part, (x, y) in zip(("train", "test"), mini.cifar10, strict=True):
        assert np.array_equal(found[part][0], x)
        assert np.array_equal(found[part][1], y)


def test_a_missing_shard_is_noticed(mini, write_parquet, tmp_path):
    write_parquet(tmp_path, mini.cifar10, "img", shards=3)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="one of 3 shards"):
        parquet(tmp_path, inputs="img")


def test_images_may_be_plain_bytes_with_texts_as_classes(tmp_path):
    save(tmp_path, "train", photo=encoded(4, mode="L", format="JPEG"), kind=list("zaza"))
    save(tmp_path, "val", photo=encoded(2, 1, mode="L"), kind=list("az"))
    found = parquet(tmp_path, inputs="photo", targets="kind")
    assert found["train"][0].shape == (4, 1, 4, 5)
    assert found["train"][1].tolist() == [1, 0, 1, 0]
    assert found["test"][1].tolist() == [0, 1]
    assert parquet(tmp_path, "photo", "kind", size=3, channels=3)["test"][0].shape == (2, 3, 3, 3)
    assert list(parquet(save(tmp_path, "test", photo=encoded(2, 5, mode="L"), kind=list("az")),
                        "photo", "kind")) == ["train", "validation", "test"]


def test_the_first_images_channels_hold_for_gray_and_colour_alike(tmp_path):
    save(tmp_path, "train", image=encoded(3), label=[0, 1, 2])
    save(tmp_path, "test", image=encoded(3, 1, mode="L"), label=[0, 1, 2])
    assert parquet(tmp_path)["test"][0].shape == (3, 3, 4, 5)
    save(tmp_path, "train", image=encoded(3, 1, mode="L"), label=[0, 1, 2])
    save(tmp_path, "test", image=encoded(3), label=[0, 1, 2])
    with pytest.raises(UserError, match="channels"):
        parquet(tmp_path)
    assert parquet(tmp_path, channels=1)["test"][0].shape == (3, 1, 4, 5)


def test_numeric_columns_become_features(tmp_path):
    table(tmp_path, x=np.arange(12.0))
    x, y = parquet(tmp_path, inputs="x")["train"]
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (12, 1), np.int64)
    rng = np.random.default_rng(0)
    rows = rng.random((30, 2))
    save(tmp_path, "whole", a=rows[:, 0], b=pa.array(range(30), pa.int16()),
         c=[bool(i % 2) for i in range(30)], y=rows[:, 1],
         d=[decimal.Decimal(f"{i}.5") for i in range(30)])
    found = parquet(tmp_path / "whole.parquet", inputs=["a", "b", "c", "d"], targets="y")
    assert found["train"][0].shape == (24, 4)
    assert found["train"][1].dtype == np.float32
    every = np.concatenate([pair[0] for pair in found.values()])
    expected = np.stack([rows[:, 0], np.arange(30), np.arange(30) % 2, np.arange(30) + 0.5], 1)
    assert np.array_equal(every[np.argsort(every[:, 1])], expected.astype(np.float32))
    both = parquet(str(tmp_path / "whole.parquet"), inputs=["a"], targets=["y", "b"])
    assert both["test"][1].shape == (6, 2)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 6), pa.list_(pa.float32()),
                                  pa.large_list(pa.uint8()), pa.list_(pa.list_(pa.int64()))])
def test_lists_of_numbers_keep_their_shape(tmp_path, kind):
    nested = pa.types.is_list(kind.value_type)
    rows = np.arange(60).reshape((10, 2, 3) if nested else (10, 6))
    save(tmp_path, "train", x=pa.array(rows.tolist(), kind), label=[0, 1] * 5)
    save(tmp_path, "test", x=pa.array((rows[:4] + 70).tolist(), kind), label=[0, 1] * 2)
    found = parquet(tmp_path, inputs="x")["train"][0]
    assert found.shape == rows.shape
    assert np.array_equal(found, rows)


def test_categories_are_texts(tmp_path):
    save(tmp_path, "all", x=np.arange(20.0), label=pa.array(list("ba") * 10).dictionary_encode())
    assert sorted(set(parquet(tmp_path, "x")["train"][1].tolist())) == [0, 1]


@pytest.mark.parametrize(("train", "options", "token"), [
    ({}, {"inputs": "pixels"}, "pixels"),
    ({}, {"inputs": "x", "targets": "y"}, "'y'"),
    ({}, {"inputs": []}, "column each"),
    ({"x": ["some text"] * 12}, {"inputs": "x"}, "reader `text`"),
    ({"x": ["some text"] * 12}, {"inputs": ["x"]}, "reader `text`"),
    ({"x": [None, *range(11)]}, {"inputs": "x"}, "row 0"),
    ({"label": [0, 1, None] * 4}, {"inputs": "x"}, "row 2"),
    ({"x": [[1, 2]] * 6 + [[1]] * 6}, {"inputs": "x"}, "1 to 2"),
    ({"x": [[1, None]] * 12}, {"inputs": "x"}, "row 0"),
    ({"x": pa.array([0] * 12, pa.timestamp("s"))}, {"inputs": "x"}, "timestamp"),
    ({"x": [{"path": "a.png"}] * 12}, {"inputs": "x"}, "struct"),
    ({"x": [b"no image"] * 12}, {"inputs": "x"}, "12 of 12 images"),
    ({"x": [{"bytes": None, "path": "a.png"}] * 12}, {"inputs": "x"}, "12 of 12 images"),
    ({"x": encoded(11) + encoded(1, size=(9, 9))}, {"inputs": "x"}, "image 11"),
    ({"x": np.array([np.nan] * 12)}, {"inputs": "x"}, "NaN"),
    ({"label": np.arange(12) % 3 + 5}, {"inputs": "x"}, "5 to 7"),
    ({"label": ["a", "b"] * 6}, {"inputs": "x"}, "class"),
])
def test_columns_that_cannot_be_used_are_named(tmp_path, train, options, token):
    with pytest.raises(UserError) as refused:
        parquet(table(tmp_path, **train), **options)
    assert token in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: content[:-20], lambda content: b"PAR1",
    lambda content: content[:4] + bytes(40) + content[44:],
    lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1"],
    ids=["empty", "cut", "magic alone", "zeros", "footer of 2 GB"])
def test_damaged_files_end_in_one_line(tmp_path, damage):
    table(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as refused:
        parquet(tmp_path, inputs="x")
    assert path.name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_cut_anywhere_a_file_is_refused_or_whole(tmp_path):
    path = table(tmp_path) / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(UserError):
            parquet(tmp_path, inputs="x")


def test_what_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    table(tmp_path, x=np.zeros(12))
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 100)
    with pytest.raises(UserError, match="bytes in memory"):
        parquet(tmp_path, inputs="x")


def test_files_that_are_missing_or_empty_are_named(tmp_path):
    for files in (tmp_path, str(tmp_path / "*.parquet"), str(tmp_path / "no.parquet")):
        with pytest.raises(UserError, match="no parquet files"):
            parquet(files)
    save(tmp_path, "test", x=[1.0], label=[0])
    with pytest.raises(UserError, match="none of train"):
        parquet(tmp_path, inputs="x")
    save(tmp_path, "train", x=pa.array([], pa.float32()), label=pa.array([], pa.int64()))
    with pytest.raises(UserError, match="no rows"):
        parquet(tmp_path, inputs="x")
