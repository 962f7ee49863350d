from __future__ import annotations

import math

import numpy as np
import pytest

from bench_apts.stats.expected_cost import best_of, ert
from bench_apts.stats.intervals import best_of_intervals, erts, resampled

INF = math.inf


def test_best_of_k_in_each_resample():
    cost = [1.0, 2.0, 5.0, INF]
    found = best_of_intervals(cost, 2)
    drawn = resampled(4)
    for draws in (1, 2):
        values = sorted(best_of([cost[i] for i in row], draws) for row in drawn)
        low, high = np.quantile(values, 0.025, method="lower"), np.quantile(
            values, 0.975, method="higher")
        assert found[draws - 1] == pytest.approx((low, high))
    assert found[0].high == INF
    assert best_of_intervals([3.0] * 4, 4) == [(3.0, 3.0)] * 4
    assert best_of_intervals([3.0], 1) is None
    with pytest.raises(ValueError, match=r"1 … 2"):
        best_of_intervals([1.0, 2.0], 3)
    with pytest.raises(ValueError, match="unknown"):
        best_of_intervals([1.0, math.nan], 1)


def test_each_resample_is_a_pool_of_its_own():
    spent, cost = [1.0, 4.0, 9.0], [1.0, INF, 9.0]
    drawn = resampled(3, 50, 1)
    assert erts(spent, cost, drawn).tolist() == [
        ert([spent[i] for i in row], [cost[i] for i in row]).cost for row in drawn]
    assert resampled(1, 50, 1) is None
