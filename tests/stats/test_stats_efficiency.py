"""Efficiency and its factors, by hand and by their identity."""

import math

import pytest

from bench_apts.stats.world_sizes import MeasuredTraining, efficiency


def test_factors_by_hand():
    # 1 rank: 1000 samples in 10 s. 4 ranks: 2000 samples in 8 s, 62.5 a second and rank.
    found = efficiency(MeasuredTraining(1, 10.0, 1000.0), MeasuredTraining(4, 8.0, 2000.0))
    assert found.hardware == 0.625
    assert found.statistical == 0.5
    assert found.total == 0.3125 == 10.0 / (4 * 8.0)


@pytest.mark.parametrize(("base", "run"), [
    ((2, 3.7, 911.0), (6, 1.3, 1517.0)), ((1, 0.02, 7.0), (4096, 55.0, 3.0)),
    ((8, 5.0, 100.0), (8, 5.0, 100.0))])
def test_the_product_is_what_the_clock_says(base, run):
    found = efficiency(MeasuredTraining(*base), MeasuredTraining(*run))
    assert found.total == pytest.approx(base[0] * base[1] / (run[0] * run[1]))


@pytest.mark.parametrize(("base", "run"), [
    ((1, math.inf, math.inf), (2, 1.0, 1.0)), ((1, 1.0, 1.0), (2, math.inf, math.inf))])
def test_a_miss_has_no_efficiency(base, run):
    assert efficiency(MeasuredTraining(*base), MeasuredTraining(*run)) is None


@pytest.mark.parametrize(("base", "run"), [
    ((1, 0.0, 10.0), (2, 1.0, 10.0)), ((1, 1.0, 10.0), (2, 1.0, 0.0)),
    ((1, 0.0, 0.0), (2, 0.0, 0.0)), ((1, 0.0, 0.0), (2, math.inf, math.inf))])
def test_what_took_no_time_or_samples_has_no_efficiency(base, run):
    assert efficiency(MeasuredTraining(*base), MeasuredTraining(*run)) is None


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        efficiency(MeasuredTraining(1, -1.0, 10.0), MeasuredTraining(2, 1.0, 10.0))
