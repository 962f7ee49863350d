from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_pools import pools

from bench_apts.stats.expected_cost import ert, restart_costs, restart_quantile

INF = math.inf


def test_the_mean_is_the_ert():
    spent, cost = [1.0, 2, 4, 7, 9, 30], [1.0, INF, INF, 7, INF, INF]
    costs = restart_costs(spent, cost)
    assert costs.mean() == pytest.approx(ert(spent, cost).cost, rel=0.02)
    assert (np.diff(costs) >= 0).all()
    assert (costs == restart_costs(spent, cost)).all()


def test_exact_quantile_by_hand():
    # Half of the trials hit for 1, a miss costs 10: 1, 11, 21, 31 with 50, 25, 12.5, 6.25 %.
    spent, cost = [1, 10], [1, INF]
    assert [restart_quantile(spent, cost, share)
            for share in (0.5, 0.51, 0.75, 0.9, 0.95)] == [1, 11, 11, 31, 41]
    assert restart_quantile([1, 2, 3, 4], [1, 2, 3, 4], 0.5) == 2
    # Misses for nothing: only hits count.
    assert restart_quantile([5, 0, 0], [5, INF, INF]) == 5


@given(st.integers(1, 4), st.integers(0, 6), st.floats(0.05, 0.95), st.integers(1, 30))
def test_the_exact_quantile_agrees_with_simulation(hits, misses, share, miss):
    spent = [3.0 * (index + 1) for index in range(hits)] + [float(miss)] * misses
    cost = spent[:hits] + [INF] * misses
    exact = restart_quantile(spent, cost, share)
    costs = restart_costs(spent, cost)
    # Six standard errors of a share of 20,000 draws; atoms are wide, so both sides are asked.
    slack = 6 * math.sqrt(share * (1 - share) / len(costs))
    assert (costs <= exact).mean() >= share - slack
    assert (costs < exact).mean() <= share + slack


def test_quantile_of_unequal_misses_is_simulated():
    spent, cost = [1.0, 10, 11], [1.0, INF, INF]
    # P(no miss) = 1/3 and P(at most one) = 5/9.
    assert restart_quantile(spent, cost, 0.3) == 1.0
    assert restart_quantile(spent, cost, 0.54) == 12.0


@given(pools(hits=1), st.sampled_from([0.25, 2.0, 8.0]))
def test_scale(pool, factor):
    spent, cost = pool
    scaled = [factor * s for s in spent], [factor * c for c in cost]
    assert restart_quantile(*scaled) == pytest.approx(factor * restart_quantile(*pool))


def test_without_a_hit_and_bad_arguments():
    assert restart_quantile([1, 2], [INF, INF]) == INF
    assert (restart_costs([1, 2], [INF, INF], draws=3) == INF).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        restart_quantile([1], [1], 1.0)
    with pytest.raises(ValueError, match="unknown"):
        restart_quantile([1], [math.nan])


def test_rare_hits_do_not_take_forever():
    # A miss costs next to nothing, so that the exact list of sums would be endless.
    spent, cost = [1e9, 1e-9], [1e9, INF]
    assert restart_quantile(spent, cost) == pytest.approx(1e9)
