"""The radius of APTS-S: what a test on fresh samples says, start-up, later moves, bounds."""

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers.apts.radius_search import (
    LARGEST,
    SMALLEST,
    RadiusSearch,
    StepQuality,
    best_length,
)


def verdict(length, samples=128.0):
    """A test whose parabola has its minimum at ``length``: f0 = 2, f0' = -length, f'' = 1."""
    after, slope = (0.0, -2.0) if math.isinf(length) else (2 - length + 0.5, 1 - length)
    return StepQuality(2.0, after, slope, 0.1, 0.1, samples)


def play(*tests, search=None, spent=0.1, settled=False):
    search = search or RadiusSearch(1.0e-3)
    for length, accepted in tests:
        search.update(verdict(length), accepted, spent, settled)
    return search


@pytest.mark.parametrize(("tests", "radius", "searching"), [
    ([(math.inf, True)], 4e-3, True),
    ([(4.0, True)], 4e-3, True),
    ([(2.0, True)], 2e-3, True),
    ([(5.0, True), (3.0, True)], 8e-3, True),
    # Ended: back to before the last extension, and once more where that was far too long.
    ([(5.0, True), (0.7, True)], 2e-3, False),
    ([(5.0, True), (0.3, True)], 1e-3, False),
    ([(5.0, True), (9.0, False)], 1e-3, False),
    # Nothing accepted yet: the start itself was too long.
    ([(9.0, False)], 1e-3 / 64, True),
    ([(9.0, False), (0.9, True)], 1e-3 / 128, False),
])
def test_start_up_brackets_the_radius_from_below(tests, radius, searching):
    search = play(*tests)
    assert search.radius == pytest.approx(radius, rel=1e-12)
    assert search.searching is searching
    assert search.ended == (0.0 if searching else 0.1)


@pytest.mark.parametrize(("length", "error", "accepted"), [
    (0.9, 0.19, True),   # falls by 0.4, which is 2.1 standard errors
    (0.9, 0.21, False),
    (1.5, 0.90, True),   # insignificant, but the step was too short
])
def test_start_up_does_not_begin_at_a_plateau(length, error, accepted):
    said = replace(verdict(length), difference_error=error)
    search = RadiusSearch(0.1)
    assert search.accepts(said, ()) is accepted
    search.update(said, accepted, 0.1, settled=False)
    if not accepted:
        assert search.radius == pytest.approx(0.1 / 64)
    assert RadiusSearch(0.1, accepted=1).accepts(said, ())
    assert found().accepts(said, ())


def test_start_up_goes_on_where_a_step_was_too_short_to_be_judged():
    said = StepQuality(2.0, 2.001, 0.003, 0.1, 0.01, 128.0)  # rises, insignificantly, by nothing
    search = RadiusSearch(1e-5)
    better_on_other_samples = (1.0,)
    assert search.accepts(said, better_on_other_samples)
    search.update(said, True, 0.1, settled=False)
    assert search.radius == pytest.approx(4e-5)
    assert not search.accepts(replace(said, difference_error=0.08), ())
    assert not found().accepts(said, better_on_other_samples)


def found(radius=0.01):
    return RadiusSearch(radius, searching=False, accepted=3)


def test_moves_after_start_up_get_smaller_and_need_evidence():
    search = play((2.0, True), search=found())
    assert search.radius == pytest.approx(0.0125)
    play((2.0, True), search=search)
    assert search.radius == pytest.approx(0.0125 * (1 + 0.25 / (1 + 1 / 8)))
    assert play((0.3, True), search=found()).radius == pytest.approx(0.008)
    assert play((0.6, True), search=found()).radius == 0.01  # neither too short nor too long


def test_a_test_on_half_of_the_samples_moves_half_as_far():
    search = found()
    search.update(verdict(2.0, samples=64), True, 0.1, settled=False)
    assert search.radius == pytest.approx(0.01 * 1.25**0.5)
    assert search.moves == 0.5


def test_earlier_tests_are_remembered():
    # The first says twice as long, the second half as long, the first with 0.7 of its weight.
    search = play((2.0, True), (0.5, True), search=found())
    change, slope = 0.7 * -1.5 + 0.0, 0.7 * -1.0 + 0.5
    assert (search.change, search.slope) == pytest.approx((change, slope))
    linear, quadratic = 2 * change - slope, slope - change
    assert -linear / (2 * quadratic) > 0.75
    assert search.radius > 0.0125


def test_once_settled_only_a_rejection_moves_the_radius():
    search = play((9.0, True), (0.1, True), search=found(), settled=True)
    assert search.radius == 0.01
    assert play((9.0, False), search=search, settled=True).radius == 0.005


@given(st.lists(st.tuples(st.floats(0, 9) | st.just(math.inf), st.booleans(), st.booleans()),
                max_size=80),
       st.floats(SMALLEST, LARGEST))
def test_the_radius_stays_within_its_bounds(tests, start):
    search = RadiusSearch(start)
    for length, accepted, settled in tests:
        search.update(verdict(length), accepted, 0.2, settled)
        assert SMALLEST <= search.radius <= LARGEST
    other = RadiusSearch(1e-3)
    other.load_state_dict(search.state_dict())
    assert other == search


@given(st.floats(-3, 3), st.floats(0.1, 3))
def test_the_best_length_is_the_minimiser_of_the_parabola(linear, quadratic):
    # phi(a) = f0 + linear*a + quadratic*a^2, so phi(1) - phi(0) and phi'(1) are:
    found = best_length(linear + quadratic, linear + 2 * quadratic)
    assert found == pytest.approx(max(0.0, -linear / (2 * quadratic)), abs=1e-9)


def test_a_step_along_a_falling_line_was_too_short_however_long():
    assert best_length(change=-1.0, slope=-1.0) == math.inf
    assert best_length(change=-1.0, slope=-1.5) == math.inf


def test_a_step_along_a_rising_line_was_too_long_however_short():
    assert best_length(change=1.0, slope=1.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=2, max_size=30),
       st.floats(-9, 9))
def test_sums_over_samples_give_means_and_standard_errors(pairs, slope):
    n = len(pairs)
    before, after = zip(*pairs, strict=True)
    differences = [b - a for a, b in pairs]
    judgement = StepQuality.from_sums((
        sum(before), sum(after), slope * n, sum(x * x for x in after),
        sum(d * d for d in differences), n))
    assert judgement.before == pytest.approx(statistics.fmean(before))
    assert judgement.after == pytest.approx(statistics.fmean(after))
    assert judgement.slope == pytest.approx(slope)
    assert judgement.error == pytest.approx(
        statistics.pstdev(after) / math.sqrt(n), abs=1e-6)
    assert judgement.difference_error == pytest.approx(
        statistics.pstdev(differences) / math.sqrt(n), abs=1e-6)


def judged(before=1.0, after=1.0, error=0.1, difference_error=0.01):
    return StepQuality(before, after, 0.0, error, difference_error, 128)


def test_a_loss_that_is_not_finite_is_never_acceptable():
    for bad in (math.nan, math.inf):
        sums = StepQuality.from_sums((1.0, bad, 0.0, bad, bad, 4))
        assert not sums.acceptable([], descending=False)
        assert not StepQuality.from_sums((bad, 1.0, 0.0, 1.0, bad, 4)).acceptable([], False)


def test_the_window_allows_a_rise_up_to_its_worst_loss_and_three_standard_errors():
    assert judged(after=1.49, before=1.48).acceptable([1.0, 1.2], descending=False)
    assert not judged(after=1.51, before=1.5).acceptable([1.0, 1.2], descending=False)


def test_a_significant_rise_is_rejected_whatever_the_window():
    assert not judged(before=1.0, after=1.031).acceptable([9.0], descending=False)
    assert judged(before=1.0, after=1.029).acceptable([9.0], descending=False)


def test_start_up_accepts_no_rise_at_all():
    assert not judged(before=1.0, after=1.001).acceptable([], descending=True)
    assert judged(before=1.0, after=1.0).acceptable([], descending=True)
