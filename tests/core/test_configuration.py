"""Selectors and scalars as users write them: read back exactly, or refused in one line."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.configuration import (
    expand_lists,
    parse_scalar,
    parse_selector,
    split_selectors,
)
from bench_apts.core.errors import UserError

WORD = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: word not in ("true", "false", "inf", "nan"))
NUMBER = st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PINNED = st.dictionaries(WORD, st.booleans() | NUMBER | WORD, max_size=4)


def toml(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


@given(WORD, PINNED)
def test_selectors_read_back_what_was_written(name, pinned):
    text = f"{name}[{','.join(f'{k}={toml(v)}' for k, v in pinned.items())}]" if pinned else name
    entry = parse_selector(f" {text} ")
    assert (entry.label, entry.optimizer, entry.pinned) == (text, name, pinned)
    assert {k: type(v) for k, v in entry.pinned.items()} == {
        k: type(v) for k, v in pinned.items()}


@given(st.lists(st.tuples(WORD, PINNED), max_size=4))
def test_lists_of_selectors_are_split_outside_the_brackets(selectors):
    texts = [f"{name}[{','.join(f'{k}={toml(v)}' for k, v in pinned.items())}]"
             for name, pinned in selectors]
    assert split_selectors(" , ".join(texts)) == texts


LISTED = st.dictionaries(WORD, st.lists(NUMBER, min_size=1, max_size=3, unique_by=repr),
                         min_size=1, max_size=3)


@given(WORD, PINNED, LISTED)
def test_lists_of_values_name_each_combination_once(name, pinned, listed):
    pairs = [f"{key}={toml(value)}" for key, value in pinned.items() if key not in listed]
    pairs += [f"{key}=[{', '.join(map(toml, values))}]" for key, values in listed.items()]
    text = f"{name}[{','.join(pairs)}]"
    assert split_selectors(f"a,{text},b[c=1]") == ["a", text, "b[c=1]"]
    found = [parse_selector(each) for each in expand_lists(text)]
    assert {entry.optimizer for entry in found} == {name}
    assert [tuple(entry.pinned[key] for key in listed) for entry in found] == [
        *itertools.product(*listed.values())]
    assert all(entry.pinned | pinned | dict.fromkeys(listed) == pinned | dict.fromkeys(listed)
               for entry in found)


def test_a_selector_without_lists_stays_as_it_was_written():
    assert expand_lists(" sgd[ lr = 0.10 ]") == [" sgd[ lr = 0.10 ]"]
    assert expand_lists("sgd[lr=[1e-1, 0.2],momentum=0]") == [
        "sgd[lr=1e-1,momentum=0]", "sgd[lr=0.2,momentum=0]"]


@pytest.mark.parametrize(("text", "token"), [
    ("sgd[lr=[]]", "write at least one value"),
    ("sgd[lr=[0.1,,0.2]]", "one between two commas"),
    ("sgd[lr=[0.1,1e-1]]", "lists a value twice"),
    (f"sgd[lr=[{','.join(map(str, range(40)))}],momentum=[{','.join(map(str, range(40)))}]]",
     "1,600 configurations"),
])
def test_malformed_lists_are_refused_in_one_line(text, token):
    with pytest.raises(UserError, match=token) as caught:
        expand_lists(text)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text() | st.text("ab[],=-1"))
def test_any_text_is_a_selector_or_a_user_error(text):
    for part in split_selectors(text):
        try:
            entries = [parse_selector(each) for each in expand_lists(part)]
        except UserError:
            continue
        assert all(entry.optimizer for entry in entries)


@pytest.mark.parametrize("text", [
    "", "[lr=1]", "sgd[lr=1", "sgd[lr=1]x", "sgd[lr]", "sgd[=1]", "sgd[lr=]", "sgd[lr=1][a=2]",
    "sgd]", "sgd=1", "sgd[lr=1,lr=2]", "sgd[lr=[1,2]]", "sgd[[1]]",
])
def test_malformed_selectors_are_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_selector(text)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@given(NUMBER | st.booleans())
def test_scalars_keep_value_and_kind(value):
    read = parse_scalar(toml(value))
    assert read == value
    assert type(read) is type(value)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_quoted_text_loses_its_quotes(text):
    assert parse_scalar(json.dumps(text, ensure_ascii=False)) == text


@given(st.text())
def test_any_text_is_a_scalar(text):
    assert isinstance(parse_scalar(text), bool | int | float | str)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000, "1\nother = 2", "[1, 2]", "1979-05-27"])
def test_what_is_no_toml_scalar_stays_text(text):
    assert parse_scalar(text) == text
