"""Intervals of the expected cost: limits by hand, laws, and the coverage they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_simulation import SHAPES, coverage

from bench_apts.stats.expected_cost import best_of, ert, miss_limit
from bench_apts.stats.intervals import (
    ErtDraws,
    best_of_intervals,
    ert_draws,
    ert_interval,
    erts,
    resampled,
)

INF = math.inf


def test_best_of_k_in_each_resample():
    cost = [1.0, 2.0, 5.0, INF]
    found = best_of_intervals(cost, 2)
    drawn = resampled(4)
    for draws in (1, 2):
        values = sorted(best_of([cost[i] for i in row], draws) for row in drawn)
        low, high = np.quantile(values, 0.025, method="lower"), np.quantile(
            values, 0.975, method="higher")
        assert found[draws - 1] == pytest.approx((low, high))
    assert found[0].high == INF
    assert best_of_intervals([3.0] * 4, 4) == [(3.0, 3.0)] * 4
    assert best_of_intervals([3.0], 1) is None
    with pytest.raises(ValueError, match=r"1 … 2"):
        best_of_intervals([1.0, 2.0], 3)
    with pytest.raises(ValueError, match="unknown"):
        best_of_intervals([1.0, math.nan], 1)


def test_each_resample_is_a_pool_of_its_own():
    spent, cost = [1.0, 4.0, 9.0], [1.0, INF, 9.0]
    drawn = resampled(3, 50, 1)
    assert erts(spent, cost, drawn).tolist() == [
        ert([spent[i] for i in row], [cost[i] for i in row]).cost for row in drawn]
    assert resampled(1, 50, 1) is None




def test_the_same_arguments_give_the_same_interval():
    spent = [1.0, 2.0, 3.0, 8.0]
    assert ert_interval(spent, spent) == ert_interval(spent, spent)


def test_without_a_hit_it_is_the_bound_that_holds_at_95_percent():
    # 1 − 0.05^(1/4) = 0.527: four misses leave a chance to hit of so much, which is 1.9 trials.
    found = ert_interval([1.0, 4.0, 4.0, 3.0], [INF] * 4)
    assert found == pytest.approx((3.0 / 0.5271, INF), rel=1e-4)
    assert miss_limit(4) == pytest.approx(0.5271, rel=1e-4)


def test_failures_that_were_not_seen_are_possible():
    # Three hits in a row have a chance of 34 % where one trial in three fails.
    found = ert_interval([1.0, 1.01, 0.99], [1.0, 1.01, 0.99])
    assert found.low < 1 < 1 + 0.3 / 0.7 < found.high
    certain = ert_draws([1.0] * 20, [1.0] * 20, failures=False).interval()
    assert 0.9 < certain.low < 1 < certain.high < 1.1
    with pytest.raises(ValueError, match="1 of 2 trials missed"):
        ert_draws([1.0, 2.0], [1.0, INF], failures=False)


def test_one_hit_of_three_leaves_no_upper_limit():
    # Its cost could be any: the scatter of one hit is unknown, and 1e50 samples are no limit.
    low, high = ert_interval([230.0, 240.0, 240.0], [230.0, INF, INF])
    assert 100 < low < 700
    assert high == INF
    mirrored = ErtDraws(1 / np.array([1e9, 2.0, 3.0, 4.0]), 1 / np.array([1e9, 2.0, 3.0, 4.0]))
    assert mirrored.interval() == (0.0, 0.5)


def test_what_costs_nothing_costs_nothing():
    assert ert_interval([0.0, 0.0], [0.0, 0.0]) == (0.0, 0.0)


def test_too_few_and_unknown():
    assert ert_interval([1.0], [1.0]) is None
    with pytest.raises(ValueError, match="2 bills"):
        ert_interval([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="unknown"):
        ert_interval([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(ValueError, match="no trial"):
        ert_draws([], [])


def test_a_bill_of_no_training_is_what_was_spent():
    never = ert_draws([1.0], [INF])
    assert never.scaled(0, 7.0).interval() == (7.0, 7.0)
    assert never.scaled(2, 7.0).interval().high == INF
    assert ErtDraws.scaled(ert_draws([1.0, 1.0], [1.0, 1.0]), 2, 1).low.min() > 1


@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), min_size=2, max_size=12))
def test_the_interval_is_ordered_holds_the_estimate_and_scales(pool):
    spent = [cost for cost, _ in pool]
    cost = [cost if hit else INF for cost, hit in pool]
    found = ert_interval(spent, cost)
    assert 0 < found.low <= found.high
    if any(hit for _, hit in pool):
        assert found.low <= ert(spent, cost).cost * (1 + 1e-9)
    twice = ert_interval([2 * s for s in spent], [2 * c for c in cost])
    assert twice == pytest.approx((2 * found.low, 2 * found.high))


@pytest.mark.parametrize("trials", [3, 8])
@pytest.mark.parametrize("shape", ["10 %", "30 %", "lognormal", "30 % fail"])
def test_coverage_at_the_default_sizes(shape, trials):
    # The documented 95 % less what 250 rounds scatter by; docs/statistics.md has the table.
    assert coverage(SHAPES[shape], trials, 250) >= 0.92 - 0.035


@pytest.mark.slow
@pytest.mark.parametrize("trials", [3, 5, 8, 10, 20, 40])
@pytest.mark.parametrize(("shape", "least"), [
    ("10 %", 0.92), ("30 %", 0.92), ("lognormal", 0.92), ("30 % fail", 0.85),
    ("60 % fail", 0.90), ("search", 0.82), ("Pareto", 0.75)])
def test_coverage(shape, least, trials):
    assert coverage(SHAPES[shape], trials, 1000) >= least
