"""Efficiency and its factors, and what transfer between world sizes costs, by hand."""

from __future__ import annotations

import math

import pytest

from bench_apts.stats.world_sizes import (
    MeasuredTraining,
    WorldSizeCosts,
    efficiency,
    transfer_regret,
    transfer_totals,
)


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


INF = math.inf


def test_regret():
    assert transfer_regret(30, 20) == 1.5
    assert transfer_regret(INF, 20) == INF
    assert transfer_regret(30, INF) == 0.0
    assert math.isnan(transfer_regret(INF, INF))
    assert transfer_regret(0, 20) == 0.0
    assert transfer_regret(20, 0) == INF
    assert transfer_regret(0, 0) == 1.0
    for bad in (math.nan, -1.0):
        with pytest.raises(ValueError, match="negative"):
            transfer_regret(bad, 1)


def test_totals_by_hand():
    places = [
        WorldSizeCosts(4, 90, 25, 40),
        WorldSizeCosts(1, 100, 30, math.nan),
        WorldSizeCosts(2, 80, 20, 30),
    ]
    # R = 1: tuning everywhere 100 + 80 + 90; tuning at 1 alone 100, then 30 and 40.
    assert transfer_totals(places) == (270, 170)
    # R = 3: two more trainings at each N with the native, three with the transferred one.
    assert transfer_totals(places, 3) == (270 + 2 * 75, 100 + 2 * 30 + 3 * 70)


def test_misses_stay_infinite():
    assert transfer_totals([
        WorldSizeCosts(1, 100, 30, 30), WorldSizeCosts(2, INF, INF, 30),
        WorldSizeCosts(4, 90, 25, INF)]) == (INF, INF)
    # A native configuration that is trained no further may cost anything.
    assert (
        transfer_totals([WorldSizeCosts(1, 100, INF, 1), WorldSizeCosts(2, 50, 10, 5)]).transfer
        == 105
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="once"):
        transfer_totals([])
    with pytest.raises(ValueError, match="once"):
        transfer_totals([WorldSizeCosts(1, 1, 1, 1), WorldSizeCosts(1, 2, 2, 2)])
    with pytest.raises(ValueError, match="at least 1"):
        transfer_totals([WorldSizeCosts(1, 1, 1, 1)], 0)
