"""Searches in narrower ranges: which trials are inside, by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.range_sensitivity import FEWEST, logarithmic, widths

VALUES = [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]


def test_trials_within_a_factor_of_the_known_value():
    found = widths(VALUES, 1e-4, 1e-1, around=1e-2, factors=(100, 10, 3))
    # Within a factor of 100 is the whole range; of 3, 3e-3 is just outside and 3e-2 at the end.
    assert [(each.factor, each.inside) for each in found] == [
        (math.inf, (0, 1, 2, 3, 4, 5)), (10, (1, 2, 3, 4, 5))]
    assert (found[1].low, found[1].high) == pytest.approx((1e-3, 1e-1))
    *_, third = widths([*VALUES, 1.1e-2], 1e-4, 1e-1, around=1e-2, factors=(100, 10, 3))
    assert (third.factor, third.inside) == (3, (3, 4, 6))


def test_fewer_than_three_trials_say_nothing():
    assert widths(VALUES[:2], 1e-4, 1e-1, around=1e-3) == []
    assert [each.factor for each in widths(VALUES, 1e-4, 1e-1, around=1e-4, factors=(10,))
            ] == [math.inf]


@given(st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=12), st.floats(1e-4, 1e-1))
def test_ranges_shrink_and_stay_inside(values, around):
    found = widths(values, 1e-4, 1e-1, around)
    for wide, narrow in itertools.pairwise(found):
        assert set(narrow.inside) <= set(wide.inside)
        assert 1e-4 <= wide.low <= narrow.low <= narrow.high <= wide.high <= 1e-1
    assert all(len(each.inside) >= FEWEST for each in found)


def test_only_ranges_of_a_decade_count_as_logarithmic():
    assert logarithmic({"lr": (1e-3, 1.0), "momentum": (0.5, 0.99), "shift": (0.0, 1.0)}) == {
        "lr": (1e-3, 1.0)}
    with pytest.raises(ValueError, match="positive"):
        widths([0.0], 1e-3, 1.0, 0.1)
