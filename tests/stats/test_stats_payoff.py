from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.amortisation import (
    Line,
    amortised,
    best_plan,
    break_even,
    plans,
    tuned,
    untuned,
)
from bench_apts.stats.bootstrap import resampled
from bench_apts.stats.payoff import (
    Tuning,
    amortised_interval,
    break_even_interval,
    break_evens,
    envelope_interval,
)

INF = math.inf

# Quarters and thirds: crossings at whole numbers, with and without rounding.
bills = st.one_of(st.integers(1, 60).map(lambda k: k / 4), st.integers(1, 60).map(lambda k: k / 3),
                  st.just(INF))


def tuning(generator, trials=40, chance=0.6, reruns=3):
    """Hits of 0.2 to about 5 whose reruns scatter around the same cost; misses cost 3."""
    quality = generator.exponential(size=trials) + 0.2
    hit = generator.random(trials) < chance
    noise = generator.gamma(8, 1 / 8, size=(trials, reruns))
    again = [[(quality[i] * x, quality[i] * x) for x in noise[i]] if hit[i] else []
             for i in range(trials)]
    spent = np.where(hit, quality, 3.0)
    return Tuning(spent.tolist(), np.where(hit, spent, INF).tolist(), again)


def truth(draws, trainings, sets=100_000):
    """C(K, R) of the same search space, from very many draws."""
    generator = np.random.default_rng(0)
    quality = generator.exponential(size=(sets, draws)) + 0.2
    hit = generator.random((sets, draws)) < 0.6
    least = np.where(hit, quality, INF).min(axis=1)
    won = np.isfinite(least)
    return np.where(hit, quality, 3.0).sum() / won.sum() + (trainings - 1) * least[won].mean()


def test_coverage_of_amortised_bills():
    expected = truth(4, 10)
    inside = 0
    for seed in range(200):
        found = amortised_interval(tuning(np.random.default_rng(seed)), 4, 10, resamples=300)
        inside += found.low <= expected <= found.high
    assert inside / 200 >= 0.9


def test_coverage_of_the_break_even():
    # Against 1.2 a training: the least R at which some K of the true C(K, R) costs no more.
    bills = {draws: (truth(draws, 1), truth(draws, 2) - truth(draws, 1)) for draws in range(1, 13)}
    expected = next(r for r in range(1, 100)
                    if min(a + (r - 1) * b for a, b in bills.values()) <= 1.2 * r)
    assert 5 < expected < 50
    inside = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        plain = generator.gamma(20, 1.2 / 20, size=20).tolist()
        found = break_even_interval(tuning(generator), (plain, plain), resamples=120)
        inside += found.low <= expected <= found.high
    assert inside / 60 >= 0.9


def test_estimates_lie_within_their_intervals():
    mine = tuning(np.random.default_rng(5))
    plain = [1.0, 1.2, 1.4, 1.1, 1.3]
    lines = plans(mine.spent, mine.cost, mine.rerun)
    low, high = amortised_interval(mine, 3, 7)
    assert low < amortised(mine.spent, mine.cost, mine.rerun, 3, 7) < high
    low, high = envelope_interval(mine, 7)
    assert low < best_plan(lines, 7).at(7) < high
    low, high = break_even_interval(mine, (plain, plain), resamples=500)
    assert low <= break_even(lines, untuned(plain, plain)).trainings <= high


def test_each_resample_is_a_pool_of_its_own():
    pool = tuning(np.random.default_rng(2), 9, reruns=1)
    first, again = pool.lines(4, 30, seed=8)
    for row, drawn in enumerate(resampled(9, 30, 8)):
        spent, cost, rerun = ([values[i] for i in drawn]
                              for values in (pool.spent, pool.cost, pool.rerun))
        for draws in range(1, 5):
            line = tuned(spent, cost, rerun, draws)
            assert (line.first, line.again) == pytest.approx(
                (first[row, draws - 1], again[row, draws - 1]))


@given(st.lists(st.tuples(bills, bills), min_size=1, max_size=4), bills)
def test_break_evens_at_once_are_those_one_by_one(lines, price):
    first, again = np.array([lines]).transpose(2, 0, 1)
    (found,) = break_evens(first, again, np.array([price]))
    assert found == break_even([Line(1, *line) for line in lines],
                               [Line(1, price, price)]).trainings


def test_break_evens_by_hand():
    first, again = np.array([[10.0, 12], [10, 3], [1, 9], [10, INF]]), np.array(
        [[2.5, 2.4], [2.5, 9], [1, 9], [1, 1]])
    # 10 + 2.5 (R − 1) ≤ 4 R from 5 on; a steep line serves 1, the flat one from 5 on; always;
    # and whatever it costs, once nobody else arrives.
    assert break_evens(first, again, np.array([4, 4, 4, INF])).tolist() == [5, 5, 1, 1]


def test_without_scatter_limits_are_the_estimate():
    # Trials that are all alike: every resample is the same pool.
    mine = Tuning([10.0] * 4, [10.0] * 4, [[(4.0, 4.0)]] * 4)
    theirs = Tuning([7.0] * 4, [7.0] * 4, [[(5.0, 5.0)]] * 4)
    assert amortised_interval(mine, 2, 3, resamples=50) == pytest.approx((28.0, 28.0))
    assert envelope_interval(mine, 3, resamples=50) == pytest.approx((18.0, 18.0))
    # 10 + 4 (R − 1) ≤ 7 + 5 (R − 1) from R = 4 on.
    assert break_even_interval(mine, theirs, resamples=50) == (4.0, 4.0)


def test_a_rerun_that_misses_may_cost_infinity():
    mine = Tuning([1.0, 1.0], [1.0, 1.0], [[(1.0, 1.0), (2.0, INF)]] * 2)
    assert mine.rerun == [3.0, 3.0]
    found = amortised_interval(mine, 1, 2)
    assert found.high == INF
    assert found.low == 2.0
    # The first training alone is not touched by that.
    assert amortised_interval(mine, 1, 1) == (1.0, 1.0)


def test_never_and_too_few():
    never = Tuning([1.0, 1.0], [INF, INF], [[], []])
    assert amortised_interval(never, 1, 1) == (INF, INF)
    assert break_even_interval(never, ([1.0, 1.0], [1.0, 1.0]), resamples=50) == (INF, INF)
    single = Tuning([1.0], [1.0], [[(1.0, 1.0)]])
    assert envelope_interval(single, 2) is None
    assert break_even_interval(single, never) is None
    assert break_even_interval(never, ([1.0], [1.0])) is None


def test_bad_arguments():
    with pytest.raises(ValueError, match="trial 0 hit, but"):
        Tuning([1.0], [1.0], [[]])
    with pytest.raises(ValueError, match="1 trials but 2"):
        Tuning([1.0], [1.0], [[(1, 1)], []])
    with pytest.raises(ValueError, match="unknown"):
        Tuning([1.0], [1.0], [[(1, math.nan)]])
    mine = tuning(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match=r"1 … 4"):
        amortised_interval(mine, 5, 1)
    with pytest.raises(ValueError, match="at least 1"):
        envelope_interval(mine, 0)
