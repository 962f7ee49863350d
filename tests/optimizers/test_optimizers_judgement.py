"""What a test on fresh samples concludes: the parabola, the standard errors, the verdict."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers.apts.radius_search import StepQuality, best_length


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
