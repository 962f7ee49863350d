from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.stats.bootstrap import Interval, ert_interval, median_interval
from bench_apts.stats.tuning import ert

INF = math.inf


def test_the_same_arguments_give_the_same_interval():
    spent = [1.0, 2.0, 3.0, 8.0]
    assert ert_interval(spent, spent) == ert_interval(spent, spent)
    assert ert_interval(spent, spent, seed=1, resamples=50) is not None


def test_hits_alone_resample_the_mean():
    assert ert_interval([3.0] * 5, [3.0] * 5) == (3.0, 3.0)
    # Two trials: means of 1, 2 or 3, the extremes with probability 1/4 each.
    assert ert_interval([1.0, 3.0], [1.0, 3.0]) == (1.0, 3.0)


def test_an_infinite_upper_limit_is_legal():
    # Of two trials with one hit, a quarter of the resamples hold no hit.
    found = ert_interval([1.0, 4.0], [1.0, INF])
    assert found == (1.0, INF)


def test_without_a_hit_it_is_more_than_the_sum():
    assert ert_interval([1.0, 4.0], [INF, INF]) == (5.0, INF)


def test_too_few():
    assert ert_interval([1.0], [1.0]) is None
    assert median_interval([1.0]) is None
    with pytest.raises(ValueError, match="2 bills"):
        ert_interval([1.0, 2.0], [1.0])


def test_median_with_misses():
    assert median_interval([1.0, INF, INF]) == (1.0, INF)
    assert median_interval([2.0, 2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_overlap():
    assert Interval(1, 2).overlaps(Interval(2, INF))
    assert not Interval(1, 2).overlaps(Interval(2.5, 3))


@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), min_size=2, max_size=12))
@settings(max_examples=40)
def test_the_interval_is_ordered_and_scales(pool):
    spent = [cost for cost, _ in pool]
    cost = [cost if hit else INF for cost, hit in pool]
    found = ert_interval(spent, cost, resamples=200)
    assert found is not None
    assert 0 < found.low <= found.high
    twice = ert_interval([2 * s for s in spent], [2 * c for c in cost], resamples=200)
    assert twice == pytest.approx((2 * found.low, 2 * found.high))


def test_coverage_at_forty_trials():
    # Known truth: P(hit) = 0.6, exponential bills of mean 1, so the ERT is 1 / 0.6.
    generator = np.random.default_rng(7)
    rounds, inside = 150, 0
    for _ in range(rounds):
        spent = generator.exponential(size=40)
        cost = np.where(generator.random(40) < 0.6, spent, INF)
        found = ert_interval(spent.tolist(), cost.tolist(), resamples=400)
        assert found is not None
        inside += found.low <= 1 / 0.6 <= found.high
    assert inside / rounds >= 0.88


def test_the_estimate_lies_inside_for_a_plain_pool():
    spent = [1.0, 2.0, 2.5, 3.0, 5.0, 9.0]
    cost = [1.0, 2.0, INF, 3.0, INF, 9.0]
    found = ert_interval(spent, cost)
    assert found is not None
    assert found.low < ert(spent, cost).cost < found.high
