"""Pareto fronts: by hand, and by what defines them on random points."""

import math
import random

import pytest

from bench_apts.stats.rankings import on_pareto_front


def test_front_by_hand():
    points = [(1, 9), (2, 4), (3, 4), (5, 1), (6, 6)]
    assert on_pareto_front(points) == [True, True, False, True, False]


def test_equal_points_stand_together():
    assert on_pareto_front([(1, 2), (1, 2), (1, 3)]) == [True, True, False]


@pytest.mark.parametrize("unknown", [math.inf, math.nan])
def test_misses_are_on_no_front_and_beat_nobody(unknown):
    assert on_pareto_front([(0, unknown), (3, 3), (unknown, 0)]) == [False, True, False]
    assert on_pareto_front([(unknown, unknown)]) == [False]
    assert on_pareto_front([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_everybody_else_is_beaten_by_somebody_on_the_front(seed):
    draw = random.Random(seed)
    points = [(draw.randint(0, 9), draw.randint(0, 9), draw.randint(0, 3)) for _ in range(40)]
    leads = on_pareto_front(points)
    front = {point for point, lead in zip(points, leads, strict=True) if lead}
    for point, lead in zip(points, leads, strict=True):
        beaten = any(other != point and all(a <= b for a, b in zip(other, point, strict=True))
                     for other in front)
        assert beaten is not lead
