"""Success by hyperparameter, and searches in narrower ranges, by hand."""


import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.range_sensitivity import (
    FEWEST,
    log_edges,
    logarithmic,
    success_by_bin,
    widest,
    widths,
    working_range,
)

DRAWS = st.lists(st.tuples(st.floats(1e-4, 1e2), st.booleans()), max_size=30)


def test_the_widest_range_is_by_ratio_and_positive():
    assert widest({"momentum": (0.5, 0.99), "lr": (1e-4, 1e-1), "decay": (0.0, 100.0)}) == "lr"
    assert widest({"decay": (0.0, 1.0)}) is None
    assert widest({}) is None


@given(st.floats(1e-6, 1), st.floats(1.1, 1e6), st.integers(1, 9))
def test_edges_have_equal_ratios_and_exact_ends(low, ratio, bins):
    edges = log_edges(low, low * ratio, bins)
    assert (edges[0], edges[-1], len(edges)) == (low, low * ratio, bins + 1)
    for near, far in itertools.pairwise(edges):
        assert far / near == pytest.approx(ratio ** (1 / bins))


@pytest.mark.parametrize("bad", [(0.0, 1.0, 2), (1.0, 1.0, 2), (1.0, 2.0, 0)])
def test_edges_refuse_what_has_no_ratio(bad):
    with pytest.raises(ValueError, match="0 < low < high"):
        log_edges(*bad)


@given(DRAWS)
def test_every_trial_counts_in_one_bin(drawn):
    bins = success_by_bin(drawn, log_edges(1e-3, 1.0, 5))
    assert sum(part.trials for part in bins) == len(drawn)
    assert sum(part.hits for part in bins) == sum(hit for _, hit in drawn)


def test_bins_hold_their_lower_end_and_the_last_one_both():
    bins = success_by_bin([(1.0, True), (10.0, False), (100.0, True)], [1.0, 10.0, 100.0])
    assert [(part.hits, part.trials) for part in bins] == [(1, 1), (1, 2)]


def test_an_unknown_value_is_refused():
    with pytest.raises(ValueError, match="unknown"):
        success_by_bin([(math.nan, True)], [1.0, 2.0])


def test_the_working_range_is_that_of_the_hits():
    assert working_range([(1.0, False), (2.0, True), (8.0, True)]) == (2.0, 8.0)
    assert working_range([(1.0, False)]) is None


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
