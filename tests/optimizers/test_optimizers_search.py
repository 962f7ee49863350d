"""The radius of APTS-S: start-up, the moves after it, and its bounds, by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers.apts.radius_search import LARGEST, SMALLEST, RadiusSearch, StepQuality


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
