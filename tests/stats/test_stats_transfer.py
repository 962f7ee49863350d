from __future__ import annotations

import math

import pytest

from bench_apts.stats.world_sizes import WorldSizeCosts, transfer_regret, transfer_totals

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
    assert transfer_totals(places) == (270, 170, {2: 1.5, 4: 1.6})
    # R = 3: two more trainings at each N with the native, three with the transferred one.
    assert transfer_totals(places, 3) == (270 + 2 * 75, 100 + 2 * 30 + 3 * 70, {2: 1.5, 4: 1.6})


def test_misses_stay_infinite():
    found = transfer_totals(
        [
            WorldSizeCosts(1, 100, 30, 30),
            WorldSizeCosts(2, INF, INF, 30),
            WorldSizeCosts(4, 90, 25, INF),
        ]
    )
    assert found == (INF, INF, {2: 0.0, 4: INF})
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
