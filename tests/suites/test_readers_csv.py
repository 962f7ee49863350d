"""CSV files: tables as people have them, with odd values, and what is refused with its place."""

import numpy as np
import pandas as pd
import pytest

from bench_apts.core.errors import UserError
from bench_apts.suites.readers import csv, reader_paths


@pytest.fixture
def flowers(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "length": rng.normal(5, 1, 60).round(3), "petals": rng.integers(3, 9, 60),
        "wild": rng.integers(0, 2, 60).astype(bool),
        "colour": rng.choice(["red", "white", "blue, pale"], 60),
        "kind": ["rose", "lily", "aster"] * 20, "height": rng.normal(30, 5, 60).round(2)})
    path = tmp_path / "flowers.csv"
    frame.to_csv(path, index=False)
    return path, frame


def rows(found):
    return np.concatenate([found["train"][0], found["test"][0]])


def test_a_classification(flowers):
    path, frame = flowers
    found = csv(str(path), target="kind")
    assert {part: len(pair[0]) for part, pair in found.items()} == {"train": 48, "test": 12}
    x, y = found["train"]
    assert (x.dtype, x.shape[1], y.dtype) == (np.float32, 7, np.int64)
    assert np.array_equal(np.bincount(found["test"][1]), [4, 4, 4])
    expected = np.column_stack([frame["length"], frame["petals"], frame["wild"],
                                frame["colour"] == "blue, pale", frame["colour"] == "red",
                                frame["colour"] == "white", frame["height"]]).astype(np.float32)
    kinds = np.unique(frame["kind"], return_inverse=True)[1]
    for pair in found.values():
        for row, label in zip(*pair, strict=True):
            (at,) = np.flatnonzero((expected == row).all(axis=1))
            assert kinds[at] == label


def test_a_regression_on_chosen_features(flowers):
    path, frame = flowers
    found = csv(path, target="height", features=["petals", "length"], test_share=0.5)
    assert len(found["test"][0]) == 30
    assert found["train"][1].dtype == np.float32
    order = np.lexsort(rows(found).T)
    expected = frame[["petals", "length"]].to_numpy().astype(np.float32)
    assert np.array_equal(rows(found)[order], expected[np.lexsort(expected.T)])


def test_integers_are_classes_or_values_as_said(flowers):
    path, frame = flowers
    with pytest.raises(UserError, match="task"):
        csv(path, target="petals")
    classes = csv(path, target="petals", task="classification")
    assert set(classes["train"][1]) == set(range(frame["petals"].nunique()))
    values = csv(path, target="petals", task="regression")
    assert values["train"][1].dtype == np.float32
    assert set(values["train"][1]) <= set(frame["petals"])
    assert set(csv(path, target="wild")["train"][1]) == {0, 1}


def test_a_test_file_of_its_own_has_the_same_columns(flowers, tmp_path):
    path, frame = flowers
    other = tmp_path / "test.csv"
    changed = frame.head(6).assign(colour="green", length=1.5)
    changed.to_csv(other, index=False)
    found = csv(path, target="kind", test_file=other)
    assert [len(pair[0]) for pair in found.values()] == [60, 6]
    assert found["test"][0].shape[1] == 8
    assert found["test"][1].tolist() == [2, 1, 0] * 2
    changed.drop(columns="wild").to_csv(other, index=False)
    with pytest.raises(UserError, match="wild"):
        csv(path, target="kind", test_file=other)
    changed.assign(kind="thistle").to_csv(other, index=False)
    with pytest.raises(UserError, match="thistle"):
        csv(path, target="kind", test_file=other)


def test_other_separators_and_a_byte_order_mark(flowers, tmp_path):
    path, frame = flowers
    other = tmp_path / "semicolons.csv"
    frame.to_csv(other, index=False, sep=";", encoding="utf-8-sig")
    with pytest.raises(UserError, match="separator"):
        csv(other, target="kind")
    found = csv(other, target="kind", separator=";", features=["length", "petals"])
    assert np.array_equal(found["test"][0], csv(path, "kind", ["length", "petals"])["test"][0])


def edited(row, column, value):
    def edit(frame):
        frame = frame.astype(object)
        frame.loc[row, column] = value
        return frame

    return edit


@pytest.mark.parametrize(("edit", "tokens"), [
    (edited(3, "length", ""), ("row 4", "length", "missing")),
    (edited(5, "colour", "NA"), ("row 6", "colour", "missing")),
    (edited(7, "kind", np.nan), ("row 8", "kind", "missing")),
    (edited(9, "length", "?"), ("row 10", "length", "'?'")),
    (edited(9, "length", "1,5"), ("row 10", "length", "'1,5'")),
    (edited(11, "length", "inf"), ("row 12", "length", "inf")),
    (edited(11, "length", "1e60"), ("row 12", "length", "1e+60")),
    (lambda frame: frame.head(0), ("no rows",)),
])
def test_odd_values_are_named_with_row_and_column(flowers, edit, tokens):
    path, frame = flowers
    edit(frame).to_csv(path, index=False)
    with pytest.raises(UserError) as refused:
        csv(path, target="kind")
    assert all(token in str(refused.value) for token in (*tokens, str(path)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [
    b"", b"\n\n", b"a,kind\n1,x\n2,y,3\n", b"a,kind\n1,x,3\n2,y,4\n", b"a,kind\n\xff\xfe,x\n",
    b'a,kind\n"1,x\n2,y\n', b"kind\nx\ny\n"],
    ids=["empty", "blank", "long row", "long rows", "no utf-8", "open quote", "no features"])
def test_files_of_another_form_end_in_one_line(tmp_path, content):
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        csv(path, target="kind")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("options", "token"), [
    ({"target": "sort"}, "sort"), ({"target": "kind", "features": ["lenght"]}, "length"),
    ({"target": "kind", "features": ["kind"]}, "kind"),
    ({"target": "kind", "features": []}, "features"),
    ({"target": "kind", "task": "clustering"}, "clustering"),
    ({"target": "kind", "task": "regression"}, "rose"),
    ({"target": "kind", "test_share": 0}, "test_share"),
    ({"target": "kind", "test_file": "nowhere.csv"}, "nowhere.csv"),
])
def test_options_that_do_not_fit_are_named(flowers, options, token):
    with pytest.raises(UserError, match=token):
        csv(flowers[0], **options)


def test_free_text_and_files_beyond_memory_are_refused(flowers, monkeypatch):
    path, frame = flowers
    wide = pd.concat([frame] * 20).assign(note=[f"note {i}" for i in range(1_200)])
    wide.to_csv(path, index=False)
    with pytest.raises(UserError, match="1,200 different texts"):
        csv(path, target="kind")
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 1_000)
    with pytest.raises(UserError, match="bytes in memory"):
        csv(path, target="kind")
