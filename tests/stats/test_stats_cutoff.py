from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_pools import pools

from bench_apts.stats.expected_cost import ert
from bench_apts.stats.restart_strategy import cutoff_curve, ert_at

INF = math.inf


def test_by_hand():
    # Stopped at 2: bills 2 + 2 + 2, one hit. At 5: 2 + 5 + 5, two hits. Uncapped: 2 + 5 + 20.
    spent, cost = [2, 5, 20], [2, 5, INF]
    assert ert_at(spent, cost, 2) == (6.0, 6.0, 1, 3)
    assert [(point.cap, point.ert.cost) for point in cutoff_curve(spent, cost)] == [(2, 6), (5, 6)]
    assert ert(spent, cost).cost == 13.5
    assert ert_at(spent, cost, 1) == (INF, 3.0, 0, 3)


@given(pools(hits=1))
def test_a_cap_that_stops_nobody_changes_nothing(pool):
    assert ert_at(*pool, INF) == ert(*pool)
    assert ert_at(*pool, max(pool[0])).cost == pytest.approx(ert(*pool).cost)


@given(pools(hits=1), st.floats(0.01, 2e6))
def test_no_cap_beats_the_best_point_of_the_curve(pool, cap):
    least = min(point.ert.cost for point in cutoff_curve(*pool))
    assert least <= ert_at(*pool, cap).cost * (1 + 1e-9)


@given(pools(hits=1))
def test_hits_grow_with_the_cap(pool):
    hits = [point.ert.hits for point in cutoff_curve(*pool)]
    assert hits == sorted(hits)
    assert hits[-1] == ert(*pool).hits


def test_without_a_hit_there_is_no_cap_to_choose():
    assert cutoff_curve([3, 4], [INF, INF]) == ()
    with pytest.raises(ValueError, match="positive"):
        ert_at([3], [3], 0)
    with pytest.raises(ValueError, match="unknown"):
        cutoff_curve([3], [math.nan])
