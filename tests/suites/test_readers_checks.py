"""What every reader's splits must satisfy, and the division of data without a test split."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.errors import UserError
from bench_apts.suites import readers
from bench_apts.suites.readers import checked, reader_paths
from bench_apts.suites.readers.split_checks import digests, divided, held_out, numbered


def splits(**changed):
    rng = np.random.default_rng(0)
    made = {"train": (rng.random((12, 3), dtype=np.float32), np.arange(12) % 3),
            "test": (rng.random((6, 3), dtype=np.float32), np.arange(6) % 3)}
    for name, array in changed.items():
        part, which = name.split("_")
        pair = list(made[part])
        pair[which == "targets"] = array
        made[part] = tuple(pair)
    return made


def nan():
    array = np.zeros((12, 3), np.float32)
    array[7, 1] = np.nan
    return array


def test_good_splits_keep_their_arrays():
    given_splits = splits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checked(given_splits | {"validation": splits(test_inputs=np.ones(
            (6, 3), np.float32) * 5)["test"]}, "mine")
    assert list(found) == ["train", "validation", "test"]
    assert found["train"][0] is given_splits["train"][0]


@pytest.mark.parametrize(("made", "token"), [
    ([1, 2], "list"),
    ({"train": splits()["train"]}, "train"),
    (splits() | {"extra": splits()["test"]}, "extra"),
    (splits() | {"test": np.zeros(3)}, "tuple"),
    (splits() | {"test": ([1.0], [1])}, "tuple"),
    (splits(test_inputs=np.zeros((6, 3), object)), "object"),
    (splits(train_targets=np.array(["a"] * 12)), "<U1"),
    (splits(train_inputs=np.zeros((12, 3), complex)), "complex"),
    (splits(test_inputs=np.zeros((0, 3), np.float32), test_targets=np.zeros(0, int)), "empty"),
    (splits(test_inputs=np.zeros((6, 0), np.float32)), "empty"),
    (splits(train_targets=np.arange(11) % 3), "12 inputs but 11 targets"),
    (splits(train_inputs=nan()), "sample 7"),
    (splits(train_targets=np.full(12, np.inf)), "targets of sample 0"),
    (splits(test_inputs=np.zeros((6, 4), np.float32)), "(4,)"),
    (splits(test_inputs=np.zeros((6, 3))), "float64"),
    (splits(train_targets=np.arange(12) % 3 + 1), "1 to 3"),
    (splits(train_targets=np.arange(12) % 3 * 2), "0 to 4"),
    (splits(train_targets=np.arange(12) % 3 - 1), "-1 to 1"),
    (splits(test_targets=np.arange(6)), "class 3"),
])
def test_what_no_trial_can_use_is_refused_in_one_line(made, token):
    with pytest.raises(UserError) as refused:
        checked(made, "folder/file.npz")
    assert token in str(refused.value)
    assert "folder/file.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_samples_in_two_splits_are_counted():
    made = splits()
    made["test"][0][[1, 4]] = made["train"][0][[0, 3]]
    with pytest.warns(UserWarning, match="2 of the 6 samples in test"):
        checked(made, "mine")


def test_classes_are_checked_of_classes_only():
    values = splits(train_targets=np.linspace(-5, 5, 12), test_targets=np.linspace(-50, 5, 6))
    checked(values, "mine")
    tokens = splits(train_targets=np.full((12, 2), 7), test_targets=np.full((6, 2), 9))
    checked(tokens, "mine")


@given(st.integers(1, 200), st.integers(1, 4), st.floats(0.05, 0.95), st.randoms())
def test_the_division_takes_each_sample_once_and_does_not_depend_on_the_order(
        number, classes, share, random):
    keys = np.array([random.randrange(number) for _ in range(number)], dtype=np.uint64)
    targets = np.array([random.randrange(classes) for _ in range(number)])
    chosen = held_out(keys, targets, share)
    order = np.array(random.sample(range(number), number))
    assert np.array_equal(held_out(keys[order], targets[order], share), chosen[order])
    for label in np.unique(targets):
        mine = targets == label
        assert not set(keys[mine & chosen]) & set(keys[mine & ~chosen])
        if len(set(keys[mine])) == mine.sum():
            assert abs(chosen[mine].sum() - share * mine.sum()) <= 0.5


def test_divided_splits_hold_all_samples(monkeypatch):
    monkeypatch.setattr(reader_paths, "BLOCK", 7)
    inputs, targets = np.random.default_rng(0).random((50, 2, 3)), np.arange(50) % 5
    found = divided(inputs, targets, 0.2, "mine")
    assert len(found["train"][0]) == 40
    assert np.array_equal(np.bincount(found["test"][1]), [2] * 5)
    both = np.concatenate([found["train"][0], found["test"][0]])
    assert np.array_equal(np.sort(digests(both)), np.sort(digests(inputs)))
    with pytest.raises(UserError, match="test_share"):
        divided(inputs, targets, 1.0, "mine")
    for count in (0, 49):
        with pytest.raises(UserError, match="mine"):
            divided(inputs[:count], targets, 0.2, "mine")


def test_texts_become_classes_in_sorted_order():
    found = numbered({"train": np.array(["b", "a", "c"], object), "test": np.array(["c"])}, "f")
    assert [found["train"].tolist(), found["test"].tolist()] == [[1, 0, 2], [2]]
    with pytest.raises(UserError, match="'d'"):
        numbered({"train": np.array(["a"]), "test": np.array(["d"])}, "f")


def test_arrays_beyond_memory_lie_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_APTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 400)
    mapped = reader_paths.room((25, 5), np.uint8, "file")
    assert isinstance(mapped, np.memmap)
    mapped[:] = 3
    assert mapped.sum() == 375
    assert not list((tmp_path / "cache").iterdir())
    assert not isinstance(reader_paths.room((10, 5), np.uint8, "file"), np.memmap)
    with pytest.raises(UserError, match="file takes"):
        reader_paths.room((2**60, 5), np.uint8, "file")
    with pytest.raises(UserError, match="file takes"):
        reader_paths.require_memory(201, "file")


def test_readers_are_imported_without_torch_and_slow_packages():
    code = ("import sys, bench_apts.suites.readers\n"
            "print({'torch', 'torchvision', 'pandas', 'pyarrow', 'safetensors'} & {*sys.modules})")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("odd", ["data", "d[a]*ta"])
def test_relative_paths_are_looked_for_in_the_data_folder_first(tmp_path, monkeypatch, odd):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / odd
    for folder, letter in ((data / "texts", "a"), (tmp_path / "texts", "b")):
        folder.mkdir(parents=True)
        (folder / "both").write_text(letter)
    (tmp_path / "texts" / "here").touch()

    def resolved(name, **options):
        return reader_paths.existing(name, data, **options).resolve()

    assert resolved("texts/both") == data / "texts" / "both"
    assert resolved("texts/here") == tmp_path / "texts" / "here"
    assert resolved(tmp_path / "texts" / "both") == tmp_path / "texts" / "both"
    assert resolved("texts", folder=True) == data / "texts"
    assert reader_paths.matching("texts/*", data) == [data / "texts" / "both"]
    assert len(reader_paths.matching("texts/*", None)) == 2
    assert len(reader_paths.matching("texts/h*", data)) == 1
    with pytest.raises(UserError, match="texts/there"):
        reader_paths.existing("texts/there", data)
    with pytest.raises(UserError, match="no file"):
        reader_paths.existing("texts", None)


@pytest.mark.filterwarnings("ignore:.*same inputs")
def test_every_reader_has_the_data_folder(mini, write_parquet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    write_parquet(data / "mnist", mini.mnist, "image")
    (data / "text").write_text("abcdefghij" * 200)
    np.savez(data / "arrays.npz", **{f"{part}_{name}": array for part, pair in splits().items()
                                     for name, array in zip(("inputs", "targets"), pair,
                                                            strict=True)})
    found = {"npz": readers.npz("arrays.npz", data_dir=data),
             "text": readers.text("text", context=7, data_dir=data),
             **{named: readers.parquet(named, data_dir=data)
                for named in ("mnist", "mnist/*.parquet")}}
    assert all(len(pair["train"][0]) for pair in found.values())
    for named in ("mnist", "mnist/*.parquet"):
        with pytest.raises(UserError, match="mnist"):
            readers.parquet(named)
