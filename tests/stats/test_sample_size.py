"""How many trials a difference takes: against laws, and the rule's own limits."""

import math

import pytest

from bench_apts.stats.sample_size import SIZES, Spread, needed, power, spread

TENTH = Spread(0.1)


def test_what_no_trial_could_show_has_no_power():
    # Five pairs never reach 5 %; six do alone, but not in a family of three.
    assert power(TENTH, TENTH, (5, 5), 100.0, paired=True) == 0
    assert power(TENTH, TENTH, (6, 6), 100.0, paired=True) == 1
    assert power(TENTH, TENTH, (6, 6), 100.0, paired=True, rivals=3) == 0


def test_power_grows_with_trials_and_with_the_factor():
    by_size = [power(TENTH, TENTH, (n, n), 1.1, paired=True, rounds=60) for n in (6, 10, 20)]
    assert by_size == sorted(by_size)
    by_factor = [power(TENTH, TENTH, (8, 8), f, paired=True, rounds=60) for f in (1.02, 1.2, 2.0)]
    assert by_factor == sorted(by_factor)
    assert power(TENTH, TENTH, (20, 20), 1.2, paired=True, rounds=60) >= 0.8


def test_the_least_size_is_the_first_that_suffices():
    found = needed(TENTH, TENTH, 1.2)
    before = SIZES[SIZES.index(found) - 1]
    assert power(TENTH, TENTH, (found, found), 1.2, paired=True) >= 0.8
    assert power(TENTH, TENTH, (before, before), 1.2, paired=True) < 0.8
    assert needed(Spread(2.0), Spread(2.0), 1.01) is None


def test_simulated_trials_have_the_stated_expected_cost():
    import numpy as np

    bill = Spread(0.5, 0.3, 2.0).draw(200_000, 7.0, np.random.default_rng(0))
    assert bill.value == pytest.approx(7.0, rel=0.01)


def test_the_spread_of_recorded_trials_by_hand():
    # Logarithms of 1 and e² scatter by √2; half missed, for 20, and the mean hit cost 4.19.
    found = spread([1.0, math.e**2, 20.0, 20.0], [1.0, math.e**2, math.inf, math.inf])
    assert found.scatter == pytest.approx(math.sqrt(2))
    assert found.failures == 0.5
    assert found.miss == pytest.approx(20 / ((1 + math.e**2) / 2))
    assert spread([1.0, 20.0], [1.0, math.inf]) is None
