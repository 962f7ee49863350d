"""The radius of APTS-S by the way of the weights: what moves it, how far, and what does not."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers.apts.radius_drift import EARLY, LATE, RadiusDrift
from bench_apts.optimizers.apts.radius_search import LARGEST, SMALLEST, StepQuality

ROUNDS = 100


def course(overshoot, noise=0.0, seed=0, rounds=ROUNDS, scale=1.0, start=0.008):
    """A budget of ``rounds`` whose way has an overshoot, a number or a function of the radius.

    The loss falls by 1 in a tenth of the budget; ``noise`` is the deviation of a round's q and,
    four times smaller, f.
    """
    draws, search, origin = random.Random(seed), RadiusDrift(start), 0.0
    for number in range(rounds):
        spent = number / rounds
        if not search.follows(spent):
            break
        if search.renews(spent):
            origin = spent
        u = overshoot(search.radius) if callable(overshoot) else overshoot
        fall = 10 * (spent - origin)
        search.observe(scale * (fall * u / (1 - abs(u)) + draws.gauss(0, noise)),
                       scale * (9 - 10 * spent + draws.gauss(0, noise / 4)), spent)
    return search


def moves(overshoot, noise, runs=100, **settings):
    return [math.log2(course(overshoot, noise, seed, **settings).radius / 0.008)
            for seed in range(runs)]


def test_a_radius_without_evidence_against_it_is_the_same_on_every_seed():
    for overshoot in (0.1, 0.2, 0.3):  # the band is -0.1 to 0.6
        found = moves(overshoot, noise=0.3)
        assert statistics.fmean(abs(move) > 0.1 for move in found) <= 0.1
    # At the very edge only the noise moves it, hardly.
    assert statistics.stdev(moves(LATE.low, noise=0.3)) < 0.5
    assert abs(statistics.fmean(moves(LATE.low, noise=0.3))) < 0.5


def test_clear_evidence_moves_the_radius_at_full_speed():
    fast = EARLY.speed * (EARLY.end - EARLY.begin)
    slow = LATE.speed * (LATE.end - LATE.begin)
    up = math.log2(course(-0.45, noise=1e-4).radius / 0.008)
    assert up == pytest.approx(fast + slow, abs=EARLY.speed / ROUNDS)
    down = math.log2(course(0.9, noise=1e-4).radius / 0.008)
    assert down == pytest.approx(-fast - slow, abs=EARLY.speed / ROUNDS)
    # -0.3 is on the way of a radius of the right order early, and too short late.
    late = math.log2(course(-0.3, noise=1e-4).radius / 0.008)
    assert late == pytest.approx(slow, abs=2 * LATE.speed / ROUNDS)


def test_evidence_counts_by_its_measured_error():
    far = [statistics.fmean(moves(-0.2, noise, runs=40)) for noise in (0.01, 0.5, 5.0)]
    assert far[0] > 1.1 * far[1] > 2 * far[2]


def test_the_radius_settles_where_the_overshoot_enters_the_band():
    def overshoot(radius):
        return max(-0.45, min(0.8, 0.2 * math.log2(radius / 0.03)))

    found = moves(overshoot, noise=0.2)
    assert statistics.stdev(found) < 0.4
    lag = LATE.memory / ROUNDS * LATE.speed
    assert -0.5 < statistics.fmean(found) - math.log2(0.03 / 0.008) < lag - 0.5


@given(st.floats(-0.6, 0.9), st.integers(0, 99), st.sampled_from([1e-6, 1e3]))
def test_the_scale_of_the_loss_does_not_matter(overshoot, seed, scale):
    one, other = (course(overshoot, 0.2, seed, scale=s) for s in (1.0, scale))
    assert one.radius == pytest.approx(other.radius, rel=1e-6)


NUMBERS = st.floats(width=32) | st.floats(-3, 3)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), max_size=60),
       st.floats(SMALLEST, LARGEST), st.integers(0, 60))
def test_the_radius_keeps_its_bounds_and_goes_on_from_a_saved_state(rounds, start, cut):
    search, resumed = RadiusDrift(start), RadiusDrift(1e-3)
    for number, (slope, loss, accepted) in enumerate(rounds):
        if number == cut:
            resumed.load_state_dict(search.state_dict())
        for each in (search, resumed) if number >= cut else (search,):
            each.renews(number / 120)
            each.observe(slope, loss, number / 120)
            each.update(StepQuality(1, 1, 0, 1, 1, 8), accepted, number / 120, settled=False)
        assert SMALLEST <= search.radius <= LARGEST
    if cut < len(rounds):
        assert resumed == search


def test_a_round_that_is_a_large_part_of_the_budget_moves_the_radius_by_a_factor_of_two_at_most():
    search = RadiusDrift(0.008)
    for number in range(7):
        before = search.radius
        search.observe(-1.0 if number else 0.0, 2.0 - (number > 0), number * 0.016)
        assert 0.5 <= search.radius / before <= 2
    assert search.radius > 0.008


def test_only_a_rejection_moves_it_by_a_test_and_a_radius_is_ready_from_the_beginning():
    search = RadiusDrift(0.008)
    assert not search.searching
    search.update(StepQuality(2, 1, -9, 0.1, 0.1, 8), accepted=True, spent=0.2, settled=False)
    assert search.radius == 0.008
    search.update(StepQuality(2, 9, 9, 0.1, 0.1, 8), accepted=False, spent=0.2, settled=True)
    assert search.radius == 0.008  # once may be an accident: shorter steps for a while
    assert [search.ramp(spent) for spent in (0.2, 0.25, 0.4)] == pytest.approx([0.5, 0.75, 1])
    search.update(StepQuality(2, 9, 9, 0.1, 0.1, 8), accepted=False, spent=0.29, settled=True)
    assert search.radius == 0.004
    search.update(StepQuality(2, 9, 9, 0.1, 0.1, 8), accepted=False, spent=0.4, settled=True)
    assert search.radius == 0.004
    assert [RadiusDrift(0.1).ramp(spent) for spent in (0, 0.05, 0.1)] == pytest.approx(
        [0.05, 0.55, 1])


def test_the_error_of_the_overshoot_is_that_of_repeated_estimates():
    # q with mean -1 and deviation 0.5, d = -1 with deviation 0.1: u = -0.5.
    found = []
    for seed in range(400):
        draws, search = random.Random(seed), RadiusDrift(0.008)
        search.observe(0.0, 2.0, 0.0)
        search.renews(0.1)
        for number in range(40):
            origin = number < LATE.memory // 2
            search.observe(-1 + draws.gauss(0, 0.5), 1 + origin + draws.gauss(0, 0.1), 0.1)
        found.append(search.overshoot())
    overshoots, errors = zip(*found, strict=True)
    assert statistics.fmean(overshoots) == pytest.approx(-0.5, abs=0.05)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(overshoots), rel=0.3)
