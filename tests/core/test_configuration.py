"""Selectors and scalars as users write them: read back exactly, or refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.configuration import parse_scalar, parse_selector, split_selectors
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


@given(st.text())
def test_any_text_is_a_selector_or_a_user_error(text):
    for part in split_selectors(text):
        try:
            entry = parse_selector(part)
        except UserError:
            continue
        assert entry.optimizer


@pytest.mark.parametrize("text", [
    "", "[lr=1]", "sgd[lr=1", "sgd[lr=1]x", "sgd[lr]", "sgd[=1]", "sgd[lr=]", "sgd[lr=1][a=2]",
    "sgd]", "sgd=1", "sgd[lr=1,lr=2]",
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
