from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_pools import costs, pools

from bench_apts.stats.expected_cost import ert, race

INF = math.inf


def test_by_hand():
    # Pairs of {2 hit, 6 hit, 4 miss}: they end at 2, 2 and 6 and are billed 4, 4 and 6 + 4.
    found = race([2, 6, 4], [2, 6, INF], 2)
    assert found == (2, pytest.approx(6.0), pytest.approx(10 / 3), 1.0)


@given(pools(), st.lists(costs, min_size=7, max_size=7), st.data())
def test_it_is_the_mean_over_all_sets(pool, misses, data):
    # Misses are billed anything, also less than the winner's cost.
    spent = [s if math.isfinite(c) else misses[i] for i, (s, c) in enumerate(zip(*pool,
                                                                                 strict=True))]
    cost = pool[1]
    draws = data.draw(st.integers(1, len(cost)))
    bill = elapsed = 0.0
    won = 0
    for subset in itertools.combinations(range(len(cost)), draws):
        end = min(cost[i] for i in subset)
        won += end < INF
        bill += sum(min(spent[i], end) for i in subset)
        elapsed += min(end, max(spent[i] for i in subset))
    found = race(spent, cost, draws)
    if not won:
        assert found == (draws, INF, INF, 0.0)
    else:
        sets = math.comb(len(cost), draws)
        assert found == pytest.approx((draws, bill / won, elapsed / won, won / sets))


@given(pools(hits=1))
def test_a_race_of_one_is_the_ert(pool):
    found = race(*pool, 1)
    assert found.bill == pytest.approx(ert(*pool).cost)
    assert found.elapsed == pytest.approx(found.bill)


@given(pools(hits=1), st.floats(0.01, 100), st.randoms(use_true_random=False), st.data())
def test_scale_and_order(pool, factor, random, data):
    spent, cost = pool
    draws = data.draw(st.integers(1, len(cost)))
    found = race(spent, cost, draws)
    order = list(range(len(spent)))
    random.shuffle(order)
    assert race([spent[i] for i in order], [cost[i] for i in order],
                draws) == pytest.approx(found)
    scaled = race([factor * s for s in spent], [factor * c for c in cost], draws)
    assert scaled == pytest.approx((draws, factor * found.bill, factor * found.elapsed,
                                    found.success))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"1 … 2"):
        race([1, 2], [1, 2], 3)
    with pytest.raises(ValueError, match="unknown"):
        race([1, 2], [1, math.nan], 1)
