"""Ratios of bills, differences of means and shares of hits, against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from bench_apts.stats.pairwise_comparison import Bill, compare, difference, first_ranks, success_p
from bench_apts.stats.verdict import decide

INF = math.inf


def always(values):
    """Trials that all hit."""
    return Bill(values, values)


def claimed(*family):
    return [each.differs for each in decide([
        each.evidence() for each in family])]


def planted(generator, chance, mean, trials=40):
    """An optimizer whose ERT is known: ``mean / chance``."""
    spent = generator.gamma(4, mean / 4, size=trials)
    return Bill(spent.tolist(), np.where(generator.random(trials) < chance, spent, INF).tolist())


def test_planted_optimizers_are_ranked_right():
    # True expected costs: 1.25, 2 and 5.
    generator = np.random.default_rng(11)
    pools = {"good": planted(generator, 0.8, 1.0), "fair": planted(generator, 0.5, 1.0),
             "bad": planted(generator, 0.4, 2.0)}
    shares = first_ranks(pools, paired=False)
    assert shares["good"] > 0.95
    assert sum(shares.values()) == pytest.approx(1)
    family = [compare(pools["good"], pools[other], paired=False) for other in ("fair", "bad")]
    assert all(comparison.ratio < 1 for comparison in family)
    assert family[1].interval.low <= 1.25 / 5 <= family[1].interval.high
    assert claimed(*family)[1]


def seeds(generator, trials, ratio):
    """Two optimizers whose costs share the luck of the seed."""
    luck = generator.exponential(size=trials) + 0.5
    first, second = (luck * generator.gamma(20, 1 / 20, size=trials) for _ in range(2))
    return always((ratio * first).tolist()), always(second.tolist())


def test_coverage_of_a_paired_ratio():
    inside = 0
    for seed in range(300):
        interval = compare(*seeds(np.random.default_rng(seed), 8, 1.3), paired=True).interval
        inside += interval.low <= 1.3 <= interval.high
    assert inside / 300 >= 0.92


def test_pairs_cancel_the_luck_of_the_seed():
    one, other = seeds(np.random.default_rng(1), 12, 1.3)
    paired, unpaired = (compare(one, other, paired=flag) for flag in (True, False))
    assert paired.ratio == unpaired.ratio
    assert math.log(paired.interval.high / paired.interval.low) < 0.5 * math.log(
        unpaired.interval.high / unpaired.interval.low)
    assert claimed(paired) == [True]
    assert claimed(unpaired) == [False]


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=2, max_size=6),
       st.sampled_from([0.5, 4.0]))
def test_swapping_and_scaling(pairs, factor):
    one, other = ([pair[i] for pair in pairs] for i in (0, 1))
    there = compare(always(one), always(other), paired=True)
    back = compare(always(other), always(one), paired=True)
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert back.p == there.p
    assert 0 <= back.interval.low <= back.interval.high
    larger = [factor * value for value in one]
    scaled = compare(always(larger), always(other), paired=True)
    assert scaled.interval == pytest.approx([factor * limit for limit in there.interval])


def test_few_pairs_never_earn_a_star():
    cheap, dear = always([1.0, 1.1, 1.2, 1.1, 1.0]), always([9.0, 9.5, 9.1, 9.2, 9.9])
    found = compare(cheap, dear, paired=True)
    assert found.interval.high < 1
    assert found.p == found.least == 2 ** -4
    assert claimed(found) == [False]
    # Without pairs, ten values can be shared out in 252 ways.
    assert compare(cheap, dear, paired=False).p == 2 / 252
    single = compare(always([1.0]), always([2.0]), paired=True)
    assert single == (0.5, None, 1.0, 1.0)
    assert claimed(single) == [False]


def test_misses():
    never, sure = Bill([5.0] * 6, [INF] * 6), always([2.0] * 6)
    there, back = compare(sure, never, paired=True), compare(never, sure, paired=True)
    # Six misses leave a chance of 39 %, at which 5 a trial are 12.7; six hits one of failing, too.
    assert (there.ratio, there.interval.low) == (0.0, 0.0)
    assert there.interval.high < 0.5
    assert (back.ratio, back.interval.high) == (INF, INF)
    assert back.interval.low > 2
    assert there.p == back.p == 2 / 2**6
    unknown = compare(never, never, paired=True)
    assert math.isnan(unknown.ratio)
    assert unknown.interval == (0.0, INF)
    assert unknown.p == 1.0


def test_first_ranks_share_ties_and_crown_nobody_without_a_hit():
    equal = always([1.0, 1.0])
    assert first_ranks({"a": equal, "b": equal}, paired=True) == {"a": 0.5, "b": 0.5}
    never = Bill([1.0, 1.0], [INF, INF])
    assert first_ranks({"a": never, "b": never}, paired=True) == {"a": 0.0, "b": 0.0}
    # A single hit of two trials: a quarter of the resamples have none.
    half = Bill([1.0, 1.0], [1.0, INF])
    assert first_ranks({"a": half, "b": never}, paired=True)["a"] == pytest.approx(0.75, abs=0.04)
    assert all(map(math.isnan, first_ranks({"a": equal, "b": always([1])}, paired=False).values()))


def test_bad_arguments():
    with pytest.raises(ValueError, match="equally many"):
        compare(always([1, 2]), always([1]), paired=True)
    with pytest.raises(ValueError, match="unknown"):
        compare(Bill([1, 2], [1, math.nan]), always([1, 2]), paired=False)


def test_bills_of_several_trainings():
    tuned = Bill([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], fixed=10.0, times=9)
    plain = Bill([3.0, 3.1, 2.9], [3.0, 3.1, 2.9], times=10)
    # 10 + 9 · 1 against 10 · 3.
    found = compare(tuned, plain, paired=False)
    assert found.ratio == pytest.approx(19 / 30)
    assert found.interval.low < 19 / 30 < found.interval.high
    never = compare(tuned._replace(cost=[INF] * 3), plain, paired=False)
    assert (never.ratio, never.interval.high) == (INF, INF)
    # Without a training that follows, the bill is a fact.
    assert tuned._replace(times=0.0).value == 10


def test_what_costs_nothing():
    nothing, something = always([0.0] * 6), always([2.0] * 6)
    assert compare(something, nothing, paired=True).ratio == INF
    assert math.isnan(compare(nothing, nothing, paired=True).ratio)
    assert compare(nothing, something, paired=True).p == 2 / 2**6


def test_fisher():
    # The lady tasting tea: 3 of 4 against 1 of 4 has both tails of (1 + 16)/70.
    assert success_p((3, 4), (1, 4)) == pytest.approx(34 / 70)
    assert success_p((10, 10), (10, 10)) == 1


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_equal_shares_of_hits_leave_nothing_to_fisher(hits, trials, one, other):
    hits = min(hits, trials)
    table = [[one * hits, one * (trials - hits)], [other * hits, other * (trials - hits)]]
    assert fisher_exact(table).pvalue == pytest.approx(1)
    assert success_p((one * hits, one * trials), (other * hits, other * trials)) == 1


def test_pairs_that_all_differ_alike_are_as_sure_as_can_be():
    assert difference([2.0] * 10, [1.5] * 10, paired=True) == (0.5, (0.5, 0.5), 2.0**-9, 2.0**-9)
    # The luck of a seed cancels in pairs, and only there.
    first, second = [1.0, 20.0, 3.0, 40.0, 5.0], [2.0, 21.0, 4.0, 41.0, 6.0]
    assert difference(first, second, paired=True).interval == (-1, -1)
    apart = difference(first, second, paired=False).interval
    assert apart.low < -1 < 0 < apart.high


def test_no_difference_and_too_few_values():
    mixed = difference([1.0, 5.0, 3.0, 4.0], [2.0, 4.0, 4.0, 3.0], paired=True)
    assert mixed.interval.low < mixed.value == 0 < mixed.interval.high
    assert mixed.p == 1
    assert difference([1.0], [2.0], paired=True) == (-1.0, None, 1.0, 1.0)
    with pytest.raises(ValueError, match="3 and 2 values"):
        difference([1, 2, 3], [1, 2], paired=True)


def test_students_interval_by_hand():
    # Differences of 1, 2 and 3: mean 2, standard error 1/√3, and t(0.975, 2) = 4.3027.
    found = difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], paired=True)
    half = 4.3027 / 3**0.5
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-4)
    assert found.p == found.least == 0.25
