from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.rankings import (
    R_MAX,
    area_score,
    kendall_tau,
    on_pareto_front,
    performance_profiles,
    ratios,
    stability,
)

INF = math.inf
tables = st.lists(st.tuples(*[st.floats(0.1, 100) | st.just(INF)] * 3), min_size=8, max_size=12)


def columns(table):
    return dict(zip("abc", map(list, zip(*table, strict=True)), strict=True))


def test_profiles_by_hand():
    # Eight problems: a is best on six, at 2 times the best on one, and misses one.
    costs = {"a": [1] * 6 + [2, INF], "b": [4] * 6 + [1, 5]}
    found = performance_profiles(costs)
    assert found["a"].at == (1.0, 2.0, 4.0)
    assert found["a"].share == (6 / 8, 7 / 8, 7 / 8)
    assert found["b"].share == (2 / 8, 2 / 8, 1.0)
    assert found["a"].score == pytest.approx((6 + 2 / 3) / 8)
    assert found["b"].score == pytest.approx(2 / 8)


@given(tables)
def test_the_score_is_the_area_below_the_profile(table):
    for profile in performance_profiles(columns(table), resamples=10).values():
        widths = np.diff(profile.at)
        assert profile.at[0] == 1.0
        assert profile.at[-1] == R_MAX
        area = (widths * profile.share[:-1]).sum() / (R_MAX - 1)
        assert profile.score == pytest.approx(area)


@given(tables, st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_scale_order_and_monotony(table, factor, random):
    costs = columns(table)
    scores = {name: area_score(found) for name, found in ratios(costs).items()}
    assert all(0 <= score <= 1 for score in scores.values())
    # Each problem has its own unit, and no place of its own.
    mixed = [tuple(factor * (k + 1) * value for value in row) for k, row in enumerate(table)]
    random.shuffle(mixed)
    for name, found in ratios(columns(mixed)).items():
        assert area_score(found) == pytest.approx(scores[name])
    # Halving one's costs never lowers one's score.
    better = ratios({**costs, "a": [value / 2 for value in costs["a"]]})
    assert area_score(better["a"]) >= scores["a"] - 1e-12
    for profile in performance_profiles(costs, resamples=20).values():
        assert list(profile.share) == sorted(profile.share)


def test_a_problem_that_nobody_solves_still_counts():
    found = ratios({"a": [INF, 1], "b": [INF, 2]})
    assert found["a"].tolist() == [INF, 1]
    assert area_score(found["a"]) == 0.5


def test_bands_hold_the_profile_and_the_score():
    generator = np.random.default_rng(2)
    costs = {name: generator.lognormal(size=20).tolist() for name in "ab"}
    for profile in performance_profiles(costs).values():
        assert all(low <= share <= high for low, share, high in
                   zip(profile.low, profile.share, profile.high, strict=True))
        assert profile.interval.low < profile.score < profile.interval.high
        assert max(np.subtract(profile.high, profile.low)) > 0.2


def test_coverage_of_the_score():
    # The ratio of two independent exponentials: E[score of either] by very many problems.
    def costs(generator, problems):
        return {name: generator.exponential(size=problems).tolist() for name in "ab"}

    truth = area_score(ratios(costs(np.random.default_rng(0), 400_000))["a"])
    inside = 0
    for seed in range(1, 301):
        found = performance_profiles(costs(np.random.default_rng(seed), 30), resamples=300)
        inside += found["a"].interval.low <= truth <= found["a"].interval.high
    assert inside / 300 >= 0.9


@given(tables, st.data())
def test_cases_of_one_problem_weigh_as_one(table, data):
    costs = columns(table)
    plain = performance_profiles(costs, resamples=50)
    names = [str(place) for place in range(len(table))]
    # To repeat a problem as further cases of itself changes nothing, bands included.
    times = data.draw(st.lists(st.integers(1, 3), min_size=len(table), max_size=len(table)))
    repeated = {name: np.repeat(mine, times).tolist() for name, mine in costs.items()}
    found = performance_profiles(repeated, np.repeat(names, times).tolist(), resamples=50)
    for name, profile in found.items():
        for field, value in profile._asdict().items():
            assert value == pytest.approx(getattr(plain[name], field)), field


def test_the_mean_of_a_problem_counts():
    # Seven problems that a wins, and one of two cases, of which a wins one and misses the other.
    costs = {"a": [1] * 8 + [INF], "b": [4] * 8 + [1]}
    problems = [*"1234567", "8", "8"]
    found = performance_profiles(costs, problems)
    assert found["a"].share == (7.5 / 8, 7.5 / 8)
    assert found["a"].score == pytest.approx(7.5 / 8)
    with pytest.raises(ValueError, match="got 7"):
        performance_profiles(costs, [*"1123456", "7", "7"])


def test_refusals():
    with pytest.raises(ValueError, match="needs 8 problems, got 7: show the table"):
        performance_profiles({"a": [1] * 7, "b": [2] * 7})
    with pytest.raises(ValueError, match="positive"):
        ratios({"a": [0.0], "b": [1.0]})
    with pytest.raises(ValueError, match="unknown"):
        ratios({"a": [math.nan], "b": [1.0]})
    with pytest.raises(ValueError, match="each problem"):
        ratios({"a": [1.0, 2.0], "b": [1.0]})




def test_tau_by_hand():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [30, 20, 10]) == -1
    # Of three pairs one is reversed.
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    # Two that both miss tie: two pairs agree, of 3 and of 2 that are untied.
    assert kendall_tau([1, 2, 3], [1, INF, INF]) == pytest.approx(2 / math.sqrt(6))


def test_rankings_that_distinguish_nobody_have_no_tau():
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert kendall_tau([1, 2], [INF, INF]) is None
    assert kendall_tau([1], [2]) is None
    assert kendall_tau([], []) is None


def test_levels():
    found = stability({0.95: {"a": 1, "b": 2, "c": 3}, 0.99: {"c": 9, "a": 4, "b": 3},
                       1.0: {"a": INF, "b": INF, "c": INF}})
    assert found.taus == {(0.95, 0.99): pytest.approx(1 / 3), (0.95, 1.0): None, (0.99, 1.0): None}
    assert found.winners == {0.95: {"a"}, 0.99: {"b"}, 1.0: frozenset()}
    assert found.winner_changes


def test_a_level_that_nobody_hits_changes_no_winner():
    assert not stability({0.95: {"a": 1, "b": 2}, 1.0: {"a": INF, "b": INF}}).winner_changes
    tied = stability({0.95: {"a": 1, "b": 1}, 1.0: {"a": 2, "b": 3}})
    assert tied.winners[0.95] == {"a", "b"}
    assert tied.winner_changes


def test_bad_arguments():
    with pytest.raises(ValueError, match="same optimizers"):
        stability({0.95: {"a": 1}, 1.0: {"b": 1}})
    with pytest.raises(ValueError, match="of 1 and 2"):
        kendall_tau([1], [1, 2])
    with pytest.raises(ValueError, match="unknown"):
        stability({0.95: {"a": 1, "b": math.nan}, 1.0: {"a": 1, "b": 1}})


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
