from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.trial_costs import find_bracket


def at_least(threshold):
    return lambda value: value >= threshold


@pytest.mark.parametrize(("values", "consecutive", "expected"), [
    ([], 2, None),
    ([0.1, 0.9, 0.9], 2, (0, 1)),
    ([0.9, 0.9], 2, (None, 0)),
    ([0.9], 2, None),  # the second evaluation that a hit needs does not exist
    ([0.9], 1, (None, 0)),
    ([0.1, 0.9, 0.1, 0.9, 0.9], 2, (2, 3)),  # a single lucky one does not count
    ([0.9, math.nan, 0.9, 0.9], 2, (1, 2)),
    ([0.9, 0.9, 0.1, 0.1], 2, (None, 0)),  # falling back later changes nothing
    ([0.1, 0.9, 0.9, 0.9], 3, (0, 1)),
])
def test_known_answers(values, consecutive, expected):
    assert find_bracket(values, at_least(0.9), consecutive) == expected


def test_nan_never_reaches_even_if_the_caller_says_so():
    assert find_bracket([math.nan] * 3, lambda value: not value < 0.9, 2) is None


def test_consecutive_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        find_bracket([0.9], at_least(0.9), 0)


@given(st.lists(st.sampled_from([0.0, 1.0, math.nan]), max_size=12), st.integers(1, 4))
def test_agrees_with_the_definition(values, consecutive):
    windows = [start for start in range(len(values) - consecutive + 1)
               if all(value == 1.0 for value in values[start:start + consecutive])]
    expected = (windows[0] - 1 if windows[0] else None, windows[0]) if windows else None
    assert find_bracket(values, at_least(0.5), consecutive) == expected
