"""Texts and token shards: each position in one window, no window across two splits."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.errors import UserError
from bench_apts.suites.readers import reader_paths, text, tokens
from bench_apts.suites.readers.token_files import cut, windows


@given(st.integers(0, 3_000), st.integers(1, 40), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_parts_and_windows_hold_each_position_once(number, context, validation, test):
    positions = np.arange(number)
    parts = cut(positions, validation, test)
    assert np.array_equal(np.concatenate(list(parts.values())), positions)
    assert len(parts["test"]) == int(number * test)
    assert len(parts["validation"]) == int(number * validation)
    for part in parts.values():
        if len(part) <= context:
            with pytest.raises(UserError):
                windows(part, context, "file")
            continue
        x, y = windows(part, context, "file")
        assert x.shape == y.shape == ((len(part) - 1) // context, context)
        assert np.array_equal(y, x + 1)
        assert np.array_equal(y.ravel(), part[1:y.size + 1])
        assert np.array_equal(x.ravel(), part[:x.size])
        assert len(part) - 1 - y.size < context
        assert np.shares_memory(x, part)


def test_tinyshakespeare_has_65_characters(real_data):
    path = real_data / "tinyshakespeare" / "input.txt"
    if not path.exists():
        pytest.skip("no tinyshakespeare below BENCH_APTS_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = text(path, context=64)
    characters = path.read_text(encoding="utf-8")
    assert len(characters) in (1_115_394, 1_115_393)  # with or without the last line break
    assert [len(pair[0]) for pair in found.values()] == [
        (count - 1) // 64 for count in (len(characters) - 2 * 111_539, 111_539, 111_539)]
    assert set(np.unique(found["train"][0])) == set(range(65))
    names = np.array(sorted(set(characters)))
    assert "".join(names[found["train"][0][0]]) == characters[:64]
    assert "".join(names[found["test"][1][0]]) == characters[-111_539 + 1:-111_539 + 65]


@pytest.mark.filterwarnings("ignore")
def test_characters_are_numbered_in_sorted_order(tmp_path):
    path = tmp_path / "text"
    path.write_text("bäc€ad\n🙂" * 100, encoding="utf-8")
    x, y = text(path, context=8)["train"]
    assert x.dtype == np.uint16
    assert x[0].tolist() == [2, 5, 3, 6, 1, 4, 0, 7]
    assert y[0].tolist() == [5, 3, 6, 1, 4, 0, 7, 2]


@pytest.mark.filterwarnings("ignore")
def test_characters_that_training_lacks_share_a_number(tmp_path):
    path = tmp_path / "text"
    path.write_text("ab" * 400 + "aZb" + "ab" * 46 + "b€aZb", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"2 characters of the test part .*'Z', '€'.* 2"):
        found = text(str(path), context=4)
    assert found["test"][0].max() == 2
    assert found["train"][0].max() == 1


def test_bytes_are_their_values(tmp_path):
    path = tmp_path / "bytes"
    content = np.random.default_rng(0).integers(0, 256, 1_000, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    found = text(path, context=9, level="byte", validation_share=0.2, test_share=0.3)
    assert [len(pair[0]) for pair in found.values()] == [55, 22, 33]
    assert np.array_equal(found["validation"][0][0], content[500:509])
    with pytest.raises(UserError, match="not UTF-8"):
        text(path)


@pytest.mark.parametrize(("content", "options", "token"), [
    ("", {}, "0 tokens"), ("short", {}, "tokens"), ("ab" * 300, {"context": 0}, "context"),
    ("ab" * 300, {"level": "word"}, "word"), ("ab" * 300, {"test_share": 0.95}, "test_share"),
    ("ab" * 300, {"validation_share": 0}, "validation_share"),
    ("ab" * 300, {"context": 60}, "validation part"),
])
def test_texts_and_options_that_do_not_fit_are_refused(tmp_path, content, options, token):
    path = tmp_path / "text"
    path.write_text(content)
    with pytest.raises(UserError, match=token):
        text(path, **options)
    with pytest.raises(UserError, match="nowhere"):
        text(tmp_path / "nowhere")


def test_a_text_beyond_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_text("ab" * 300)
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 10_000)
    with pytest.raises(UserError, match="14,400 bytes in memory"):
        text(path)
    with pytest.warns(UserWarning, match="same inputs"):
        assert text(path, context=5, level="byte")["train"][0].shape == (95, 5)


def shard(path, values, magic=20_240_520, version=1, number=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(values) if number is None else number
    path.write_bytes(header.tobytes() + np.asarray(values, "<u2").tobytes())
    return path


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    sequence = rng.integers(0, 50_257, 1_000)
    shard(tmp_path / "fineweb_train_000001.bin", sequence[:350])
    shard(tmp_path / "fineweb_train_000002.bin", sequence[350:700])
    shard(tmp_path / "fineweb_val_000000.bin", sequence[700:])
    return str(tmp_path / "fineweb_*.bin"), sequence


def test_shards_follow_each_other(shards):
    pattern, sequence = shards
    found = tokens(pattern, context=30)
    for part, values in (("train", sequence[:700]), ("test", sequence[700:])):
        x, y = found[part]
        assert x.dtype == y.dtype == np.uint16
        assert x.shape == y.shape == ((len(values) - 1) // 30, 30)
        assert np.array_equal(x.ravel(), values[:x.size])
        assert np.array_equal(y.ravel(), values[1:y.size + 1])
    assert isinstance(found["test"][0], np.memmap)


def test_shards_beyond_memory_are_joined_on_the_disk(shards, monkeypatch):
    expected = tokens(shards[0], context=30)["train"]
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 1_000)
    found = tokens(shards[0], context=30)["train"]
    assert isinstance(found[0], np.memmap)
    assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize(("changed", "token"), [
    ({"magic": 20_240_521}, "begin"), ({"version": 2}, "begin"), ({"number": 299}, "299"),
    ({"number": 2**31 - 1}, "2,147,483,647"), ({"number": -1}, "-1"), ({"number": 0}, "0 tokens"),
])
def test_headers_that_are_wrong_are_refused(shards, tmp_path, changed, token):
    path = shard(tmp_path / "fineweb_val_000000.bin", shards[1][700:], **changed)
    with pytest.raises(UserError, match=token) as refused:
        tokens(shards[0], context=30)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("size", [0, 3, 1_023, 1_024, 1_025, 1_622])
def test_truncated_shards_are_refused(shards, tmp_path, size):
    path = tmp_path / "fineweb_val_000000.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=path.name):
        tokens(shards[0], context=30)


def test_patterns_and_vocabularies_that_do_not_fit_are_named(shards, tmp_path):
    with pytest.raises(UserError, match="none of the 2 files found has 'val'"):
        tokens(str(tmp_path / "*train*.bin"))
    with pytest.raises(UserError, match="data-dir"):
        tokens("*.tokens", data_dir=tmp_path)
    with pytest.raises(UserError, match="vocabulary"):
        tokens(shards[0], context=30, vocabulary=1_000)
    with pytest.raises(UserError, match="1025 of one window"):
        tokens(shards[0])
