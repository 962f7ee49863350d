from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_pools import costs, pools

from bench_apts.stats.expected_cost import (
    best_of,
    ert,
    hit_probability,
    miss_limit,
    restart_costs,
    restart_quantile,
    sequential_bill,
)

INF = math.inf


def test_ert_by_hand():
    # Bills of 2, 3, 5 and 10 seconds, of which the first two bought a hit: 20 / 2.
    found = ert([2, 3, 5, 10], [2, 3, INF, INF])
    assert found == (10.0, 20.0, 2, 4)
    assert found.success_limit == 1.0


def test_ert_without_a_hit_is_more_than_the_sum():
    found = ert([4, 6, 8], [INF] * 3)
    assert found.cost == INF
    assert found.total == 18.0
    # Three misses in a row have a probability of 5 % at p = 1 − 0.05^(1/3) = 63.2 %.
    assert found.success_limit == pytest.approx(0.6316, abs=1e-4)
    assert (1 - miss_limit(3)) ** 3 == pytest.approx(0.05)


def test_ert_of_nothing():
    found = ert([], [])
    assert found.cost == INF
    with pytest.raises(ValueError, match="2 bills but 1"):
        ert([1, 2], [1])


def test_sequential_bill_by_hand():
    # One hit for 4 among two misses for 6 each: on average one miss comes first.
    assert sequential_bill([4, 6, 6], [4, INF, INF]) == 10.0
    assert sequential_bill([6, 6], [INF, INF]) == INF


@given(pools(6, hits=1))
def test_sequential_bill_is_the_mean_over_all_orders(pool):
    def bill(order):
        total = 0.0
        for spent, cost in order:
            total += spent
            if cost < INF:
                return total
        raise AssertionError

    orders = list(itertools.permutations(zip(*pool, strict=True)))
    assert sequential_bill(*pool) == pytest.approx(sum(map(bill, orders)) / len(orders))


def test_best_of_by_hand():
    # Pairs of {1, 2, 4}: minima 1, 1 and 2.
    assert best_of([4, 1, 2], 2) == pytest.approx(4 / 3)
    assert best_of([1, INF], 1) == INF
    assert best_of([1, INF], 2) == 1.0
    with pytest.raises(ValueError, match=r"1 … 2"):
        best_of([1, 2], 3)


@given(pools(), st.data())
def test_best_of_and_hit_probability_are_means_over_all_subsets(pool, data):
    cost = pool[1]
    draws = data.draw(st.integers(1, len(cost)))
    subsets = list(itertools.combinations(cost, draws))
    assert best_of(cost, draws) == pytest.approx(sum(map(min, subsets)) / len(subsets))
    chance = sum(min(subset) < INF for subset in subsets) / len(subsets)
    hits = sum(value < INF for value in cost)
    assert hit_probability(len(cost), hits, draws) == pytest.approx(chance)


@given(pools(hits=1), st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_scale_and_order(pool, factor, random):
    spent, cost = pool
    scaled = [factor * value for value in spent], [factor * value for value in cost]
    order = list(range(len(spent)))
    random.shuffle(order)
    mixed = [spent[i] for i in order], [cost[i] for i in order]
    for statistic in (lambda s, c: ert(s, c).cost, sequential_bill):
        assert statistic(*scaled) == pytest.approx(factor * statistic(*pool))
        assert statistic(*mixed) == pytest.approx(statistic(*pool))


@given(pools(hits=1), costs)
def test_another_miss_never_makes_it_cheaper(pool, bill):
    spent, cost = pool
    assert ert([*spent, bill], [*cost, INF]).cost > ert(spent, cost).cost
    before = sequential_bill(spent, cost)
    assert sequential_bill([*spent, bill], [*cost, INF]) > before * (1 - 1e-9)


@given(pools(hits=1))
def test_best_of_more_is_no_worse(pool):
    found = [best_of(pool[1], k) for k in range(1, len(pool[1]) + 1)]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(found))


def test_bad_arguments():
    with pytest.raises(ValueError, match="cost of trial 1 is unknown"):
        ert([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="bill of trial 0 is nan"):
        ert([math.nan, 2], [INF, 2])
    with pytest.raises(ValueError, match="is unknown"):
        best_of([1, math.nan], 1)
    with pytest.raises(ValueError, match="3 hits of 2"):
        hit_probability(2, 3, 1)


def test_after_misses_alone_the_cost_exceeds_the_bill_at_the_largest_likely_chance():
    # Three misses leave a chance of 1 − 0.05^(1/3) = 0.632: 1.58 trials of 6 each, not three.
    found = ert([4, 6, 8], [math.inf] * 3)
    assert found.bound == pytest.approx(6 / 0.6316, rel=1e-3)
    assert ert([4.0], [math.inf]).bound == pytest.approx(4 / 0.95)




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
