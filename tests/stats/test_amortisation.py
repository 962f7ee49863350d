"""Bills of R trainings and R*: by hand, by counting, and by simulation against known truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_bill_simulation import NUMBERS, SHAPES, simulated
from stats_pools import pools

from bench_apts.stats.amortisation import (
    BreakEven,
    Trainings,
    break_even,
    crossings,
    is_precise_enough,
    tuned,
)
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.intervals import Interval

INF = math.inf


def constant(cost, tuning=None, seeds=40):
    """A bill whose trainings all cost the same."""
    return Trainings([cost] * seeds, [cost] * seeds, tuning)


def test_the_referees_example():
    """Of eight trials the luckiest is frozen, at 0.4; on fresh seeds it costs 1.1, not 0.4."""
    hits, misses = [0.4, 0.9, 1.5], [1.5] * 5
    fresh = [1.0, 1.1, 1.2, 1.1]
    sgd = tuned(hits + misses, hits + [INF] * 5, (fresh, fresh))
    apts = Trainings([1.0, 0.9, 1.1, 1.0], [1.0, 0.9, 1.1, 1.0])
    # 10.3 for all eight trials, the first training among them, and 9 · 1.1 after it.
    assert sgd.at(1) == pytest.approx(10.3)
    assert sgd.at(10) == pytest.approx(20.2)
    assert sgd.at(10) / apts.at(10) == pytest.approx(2.02)
    found = break_even(sgd, apts)
    assert found.trainings == INF
    # Four seeds each do not prove that either: 1.1 and 1.0 might be the other way round.
    assert not found.is_known
    assert not found.never
    assert 1 < found.interval.low < found.interval.high == INF


def test_misses_among_the_fresh_seeds_are_billed():
    bill = tuned([2, 3, 5, 10], [2, 3, INF, INF], ([3, 5], [3, INF]))
    assert [bill.at(trainings) for trainings in (1, 2, 10)] == [20, 28, 92]
    assert bill.interval(1) is None
    lost = tuned([2, 3], [2, 3], ([3, 5], [INF, INF]))
    assert (lost.at(1), lost.at(2)) == (5, INF)
    assert lost.interval(2).high == INF
    assert lost.interval(2).low > 5 + 4  # at least a mean bill of what missed


def test_a_search_without_a_hit_is_no_first_training():
    bill = tuned([2, 3], [INF, INF], ([3, 3], [3, 3]))
    assert [bill.at(trainings) for trainings in (1, 7)] == [5 + 3, 5 + 21]
    # 5 + 3 R ≤ 4 R from 5 on.
    assert break_even(bill, constant(4.0)).trainings == 5


@given(pools(hits=1), st.integers(1, 50))
def test_without_tuning_every_training_costs_the_ert(pool, trainings):
    assert Trainings(*pool).at(trainings) == pytest.approx(trainings * ert(*pool).cost)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_the_crossing_agrees_with_counting(tuning, again, price):
    found = crossings(*(np.array([cost], float) for cost in (tuning, again, price)))
    counted = next((r for r in range(1, 200) if tuning + (r - 1) * again <= r * price), INF)
    assert found.tolist() == [counted]


def test_crossings_with_what_never_arrives():
    again, price = np.array([INF, 3, INF]), np.array([5, INF, INF])
    assert crossings(np.full(3, 10.0), again, price).tolist() == [INF, 1, 1]
    assert crossings(np.full(3, INF), again, price).tolist() == [INF] * 3


def test_by_hand_and_told():
    # 10 + 3 (R − 1) ≤ 5 R from 3.5 on; trainings that all cost the same leave little doubt.
    found = break_even(constant(3.0, 10.0), constant(5.0))
    assert found.trainings == 4
    assert found.is_known
    assert found.interval.low <= 4 <= found.interval.high


def test_never_takes_all_of_the_interval():
    found = break_even(constant(9.0, 90.0), constant(5.0))
    assert found.never
    assert not found.is_known
    few = break_even(constant(9.0, 90.0, seeds=4), constant(1.0, seeds=4))
    assert few.interval == (INF, INF)
    assert not few.never


def test_an_optimizer_that_never_arrived_bounds_the_answer_from_one_side_only():
    mine = constant(3.0, 100.0, seeds=8)
    theirs = Trainings([10.0] * 8, [INF] * 8)
    found = break_even(mine, theirs)
    assert (found.trainings, found.interval.low) == (1, 1)
    # A training costs it more than some 32 with 95 %, so that tuning pays soon.
    assert 2 <= found.interval.high <= 6
    lost = break_even(Trainings([10.0] * 8, [INF] * 8, 30.0), constant(3.0))
    assert lost.interval.high == INF


@pytest.mark.parametrize(("interval", "worth"), [
    ((1.0, 4.0), True), ((1.0, 4.1), False), ((1.0, INF), False), ((INF, INF), False),
    (None, False)])
def test_what_is_worth_a_number(interval, worth):
    found = interval and Interval(*interval)
    assert is_precise_enough(found, 8) is worth
    assert not is_precise_enough(found, 7)  # a factor of 2


def test_a_break_even_takes_eight_seeds_and_a_factor_of_three():
    narrow, wide = Interval(2.0, 6.0), Interval(2.0, 6.1)
    assert BreakEven(4.0, narrow, 8).is_known
    assert not BreakEven(4.0, narrow, 7).is_known
    assert not BreakEven(4.0, wide, 8).is_known
    assert is_precise_enough(Interval(1.0, 2.0), 3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        constant(1.0).at(0)
    with pytest.raises(ValueError, match="fresh seeds"):
        Trainings([], [])
    with pytest.raises(ValueError, match="is nan"):
        Trainings([math.nan], [1.0])
    with pytest.raises(ValueError, match="tuned optimizer"):
        break_even(constant(1.0), constant(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seeds", NUMBERS)
def test_bills_keep_their_promise(shape, seeds):
    """The table of docs/statistics.md: medians within 20 %, 95 % intervals that cover 90 %."""
    for what, found in simulated(shape, seeds, rounds=400).items():
        assert found.covered >= 0.88, (what, found)  # 90 % less two standard errors
        if found.shown >= 0.05:  # else it is as good as never shown as a number
            assert 0.8 <= found.median <= 1.25, (what, found)
            # And among those that show it, less what their number scatters by.
            assert 0.75 <= found.when_shown <= 1.25, (what, found)
