from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.stats.bootstrap import (
    Interval,
    best_of_intervals,
    ert_interval,
    median_interval,
    resampled,
    restart_interval,
)
from bench_apts.stats.tuning import best_of, ert

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
    # Half of them hold one hit and one miss, which cost 5 together.
    assert ert_interval([1.0, 4.0], [1.0, INF], confidence=0.4) == (5.0, 5.0)


def test_without_a_hit_it_is_more_than_the_sum():
    assert ert_interval([1.0, 4.0], [INF, INF]) == (5.0, INF)


def test_too_few():
    assert ert_interval([1.0], [1.0]) is None
    assert median_interval([1.0]) is None
    with pytest.raises(ValueError, match="2 bills"):
        ert_interval([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="unknown"):
        ert_interval([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(ValueError, match="unknown"):
        median_interval([1.0, math.nan])


def test_best_of_k_in_each_resample():
    cost = [1.0, 2.0, 5.0, INF]
    found = best_of_intervals(cost, 2, resamples=200, confidence=0.5)
    drawn = resampled(4, None, 200, 20_240)
    for draws in (1, 2):
        values = sorted(best_of([cost[i] for i in row], draws) for row in drawn)
        low, high = np.quantile(values, 0.25, method="lower"), np.quantile(
            values, 0.75, method="higher")
        assert found[draws - 1] == pytest.approx((low, high))
    assert found[0].high == INF
    assert best_of_intervals([3.0] * 4, 4) == [(3.0, 3.0)] * 4
    assert best_of_intervals([3.0], 1) is None
    with pytest.raises(ValueError, match=r"1 … 2"):
        best_of_intervals([1.0, 2.0], 3)
    with pytest.raises(ValueError, match="unknown"):
        best_of_intervals([1.0, math.nan], 1)


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


def coverage(rounds, truth, interval):
    """Share of simulated intervals that hold the truth."""
    found = [interval(np.random.default_rng(seed)) for seed in range(rounds)]
    return sum(limits.low <= truth <= limits.high for limits in found) / rounds


def exponential(generator, trials=40, chance=0.6):
    """Bills of mean 1, and costs of trials that hit with a known probability."""
    spent = generator.exponential(size=trials)
    return spent.tolist(), np.where(generator.random(trials) < chance, spent, INF).tolist()


def test_coverage_of_the_ert_at_forty_trials():
    assert coverage(400, 1 / 0.6, lambda generator: ert_interval(
        *exponential(generator), resamples=400)) >= 0.9


def test_coverage_of_the_restart_quantile_at_forty_trials():
    # A geometric sum of exponential bills is exponential again, of mean 1 / p.
    assert coverage(150, math.log(10) / 0.6, lambda generator: restart_interval(
        *exponential(generator), resamples=200, draws=300)) >= 0.9


def clustered(generator, configurations=20, seeds=3):
    """Trials of which those of a configuration share their mean cost and chance of a hit."""
    spent = (np.repeat(generator.exponential(size=configurations), seeds)
             * generator.gamma(4, 0.25, size=configurations * seeds))
    chance = np.repeat(generator.beta(2, 1.5, size=configurations), seeds)
    cost = np.where(generator.random(configurations * seeds) < chance, spent, INF)
    return spent.tolist(), cost.tolist(), np.repeat(np.arange(configurations), seeds).tolist()


def test_clusters_cover_what_single_trials_do_not():
    def whole(generator):
        spent, cost, labels = clustered(generator)
        return ert_interval(spent, cost, configurations=labels, resamples=400)

    truth = 3.5 / 2  # mean bill 1 over the mean of beta(2, 1.5)
    assert coverage(300, truth, whole) >= 0.9
    ignored = coverage(300, truth, lambda g: ert_interval(*clustered(g)[:2], resamples=400))
    assert ignored < 0.88


def test_seeds_are_drawn_within_the_configuration_that_was_drawn():
    labels = ["a", "b", "b", "b", "a", "c"]
    drawn = resampled(6, labels, 300, 0)
    assert drawn is not None
    sizes = {"a": 2, "b": 3, "c": 1}
    counts = set()
    for row in drawn:
        kinds = [labels[index] for index in row if index >= 0]
        held = {kind: kinds.count(kind) for kind in sizes}
        assert all(number % sizes[kind] == 0 for kind, number in held.items())
        assert sum(number // sizes[kind] for kind, number in held.items()) == 3
        counts.add(len(kinds))
    assert counts > {3, 9}
    # Trials of equal weight in the long run: each is drawn once per resample on average.
    shares = np.bincount(drawn[drawn >= 0], minlength=6) / 300
    assert shares == pytest.approx([1] * 6, abs=0.25)


def test_one_configuration_alone_has_no_interval():
    assert ert_interval([1, 2, 3], [1, 2, 3], configurations=["a"] * 3) is None
    assert restart_interval([1, 2, 3], [1, 2, 3], configurations=["a"] * 3) is None
    with pytest.raises(ValueError, match="3 trials but 2"):
        ert_interval([1, 2, 3], [1, 2, 3], configurations=["a", "b"])


def test_restart_interval():
    # Every trial hits for the same: any share of restarts costs just that.
    assert restart_interval([3.0] * 4, [3.0] * 4, resamples=50) == (3.0, 3.0)
    assert restart_interval([1, 4], [INF, INF]) == (5.0, INF)
    found = restart_interval([1.0, 10], [1.0, INF], resamples=400)
    assert found == (1.0, INF)


def test_the_estimate_lies_inside_for_a_plain_pool():
    spent = [1.0, 2.0, 2.5, 3.0, 5.0, 9.0]
    cost = [1.0, 2.0, INF, 3.0, INF, 9.0]
    found = ert_interval(spent, cost)
    assert found is not None
    assert found.low < ert(spent, cost).cost < found.high
