"""Rankings: profiles over several problems, agreement across levels, and Pareto fronts."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.expected_cost import check_known
from bench_apts.stats.intervals import BOOTSTRAP_SEED, RESAMPLES, Interval, percentiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.stats.expected_cost import Floats

MIN_PROBLEMS = 8
"""Problems below which a performance profile shows little but noise."""

R_MAX = 4.0
"""Ratio to the best at which the area below a profile ends."""


class Profile(NamedTuple):
    """A Dolan-Moré performance profile: a step function of the ratio to the best optimizer.

    Attributes:
        at: Ratios at which any profile steps, from 1 to ``R_MAX``, in order, shape ``(k,)``.
        share: Share of problems that were solved within that ratio, shape ``(k,)``.
        low: Lower limit of the band at each point, shape ``(k,)``.
        high: Upper limit, shape ``(k,)``.
        score: Area below the profile from 1 to ``R_MAX``, divided by ``R_MAX − 1``; 1 is best.
        interval: Of the score.
    """

    at: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    score: float
    interval: Interval


def ratios(costs: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Return the cost of each optimizer over that of the best one, problem by problem.

    Args:
        costs: Cost of each optimizer on each problem, in one currency, infinite where it missed;
            all of shape ``(problems,)``.

    Returns:
        Ratios of the same shape, at least 1; infinite where it missed, also where all did:
        a problem that no optimizer solves stays in the count.

    Raises:
        ValueError: No optimizer, numbers of problems differ, or a cost is not positive (bytes at
            N = 1 are not: a ratio to nothing has no meaning) or unknown (NaN).
    """
    if not costs or len({len(values) for values in costs.values()}) > 1:
        raise ValueError("each optimizer needs a cost on each problem")
    for values in costs.values():
        check_known(values)
    table: Floats = np.array(list(costs.values()), dtype=np.float64)
    if (table <= 0).any():
        raise ValueError("costs must be positive to be compared as ratios")
    best = table.min(axis=0)
    found = np.divide(table, best, out=np.full(table.shape, np.inf), where=np.isfinite(best))
    return dict(zip(costs, found, strict=True))


def area_score(ratio: Sequence[float] | Floats, problems: Sequence[str] | None = None) -> float:
    """Return the exact area score of a profile, ``mean max(0, R_MAX − r)/(R_MAX − 1)``.

    Args:
        ratio: As ``ratios`` returns it, of one optimizer.
        problems: As in ``performance_profiles``.
    """
    return shared(_areas(np.asarray(ratio, dtype=np.float64)), problems)


def shared(values: Sequence[float] | Floats, problems: Sequence[str] | None = None) -> float:
    """Return the mean of values over problems, each of which has the mean of its cases.

    Args:
        values: One for each case, shape ``(cases,)``.
        problems: As in ``performance_profiles``.
    """
    found: Floats = np.asarray(values, dtype=np.float64)
    return float((found if problems is None else _weights(problems, len(found)) @ found).mean())


def performance_profiles(costs: Mapping[str, Sequence[float]],
                         problems: Sequence[str] | None = None, *,
                         resamples: int = RESAMPLES) -> dict[str, Profile]:
    """Return performance profiles with bands from resampling the problems.

    A profile depends on who else is in the comparison, through the best of them; with more than
    two optimizers, only the best one's place is safe to read off.

    Args:
        costs: As in ``ratios``, for each case.
        problems: The problem that each case belongs to, shape ``(cases,)``: cases of one problem,
            such as one suite at several N, have the weight of one together and are resampled
            together. Without it each is a problem of its own.
        resamples: Number of resamples, on the same problems for all optimizers. Bands cover 95 %,
            at each point for itself.

    Raises:
        ValueError: Fewer than 8 problems, of which a profile would show little but noise: show
            the table. Or as in ``ratios``.
    """
    found = ratios(costs)
    weights = _weights(problems, len(next(iter(found.values()))))
    number = len(weights)
    if number < MIN_PROBLEMS:
        raise ValueError(
            f"a performance profile needs {MIN_PROBLEMS} problems, got {number}: show the table")
    every = np.concatenate([*found.values(), [1.0, R_MAX]])
    at = np.unique(every[every <= R_MAX])
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(0, number, size=(resamples, number))
    profiles = {}
    for name, ratio in found.items():
        solved = weights @ (ratio[:, None] <= at)
        bands = [percentiles(column) for column in solved[drawn].mean(axis=1).T]
        profiles[name] = Profile(
            tuple(at.tolist()), tuple(solved.mean(axis=0).tolist()),
            tuple(band.low for band in bands), tuple(band.high for band in bands),
            area_score(ratio, problems),
            percentiles((weights @ _areas(ratio))[drawn].mean(axis=1)))
    return profiles


def _areas(ratio: Floats) -> Floats:
    found: Floats = np.maximum(0.0, R_MAX - ratio) / (R_MAX - 1.0)
    return found


def _weights(problems: Sequence[str] | None, cases: int) -> Floats:
    """Return the matrix ``(problems, cases)`` that makes each problem the mean of its cases."""
    if problems is None:
        return np.eye(cases)
    if len(problems) != cases:
        raise ValueError(f"{cases} cases need the problem of each, got {len(problems)}")
    names = list(dict.fromkeys(problems))
    member: Floats = np.array([[name == each for each in problems] for name in names], np.float64)
    weighted: Floats = member / member.sum(axis=1, keepdims=True)
    return weighted


class Stability(NamedTuple):
    """How rankings agree across levels of the target.

    Attributes:
        taus: Kendall's τ-b of each pair of levels; None where a ranking has ties only.
        winners: Cheapest optimizers by level, several if they tie, none if none hit it.
    """

    taus: dict[tuple[float, float], float | None]
    winners: dict[float, frozenset[str]]

    @property
    def winner_changes(self) -> bool:
        """Whether levels that somebody hit have different winners."""
        return len({names for names in self.winners.values() if names}) > 1


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's τ-b of two rankings: 1 where all pairs agree, −1 where all are reversed.

    Infinite costs tie with each other.

    Args:
        first: Costs of each optimizer, shape ``(m,)``; infinite for none.
        second: Their costs under the other conditions, in the same order.

    Returns:
        τ-b, or None where all of a ranking tie.

    Raises:
        ValueError: Lengths differ, or a cost is unknown (NaN).
    """
    if len(first) != len(second):
        raise ValueError(f"rankings of {len(first)} and {len(second)}")
    if any(math.isnan(value) for value in (*first, *second)):
        raise ValueError("an unknown cost (NaN) has no rank")
    if min(len(set(first)), len(set(second))) < 2:
        return None
    if _places(first) == _places(second):
        return 1.0  # the usual case, without importing scipy.stats
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def _places(costs: Sequence[float]) -> list[int]:
    """Return the place of each cost among the distinct ones."""
    distinct = sorted(set(costs))
    return [distinct.index(cost) for cost in costs]


def stability(costs: Mapping[float, Mapping[str, float]]) -> Stability:
    """Compare the rankings that each level of the target gives.

    Args:
        costs: Expected cost by level and optimizer, infinite where it missed.

    Raises:
        ValueError: Levels rank different optimizers, or a cost is unknown.
    """
    levels = sorted(costs)
    names = sorted(costs[levels[0]]) if levels else []
    if any(sorted(costs[level]) != names for level in levels):
        raise ValueError("all levels must rank the same optimizers")
    columns = {level: [costs[level][name] for name in names] for level in levels}
    taus = {(one, other): kendall_tau(columns[one], columns[other])
            for one, other in itertools.combinations(levels, 2)}
    winners = {}
    for level, values in columns.items():
        least = min(values, default=math.inf)
        winners[level] = frozenset(
            name for name, value in zip(names, values, strict=True)
            if value == least and math.isfinite(value))
    return Stability(taus, winners)


def on_pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Say of each point whether no other is at least as low in all costs and lower in one.

    Args:
        points: Costs, lower is better, shape ``(points, costs)``. A point with a cost that is
            infinite or unknown (NaN) is on no front and dominates no other.

    Returns:
        One answer for each point; equal points are on the front together.
    """
    known = [point for point in points if all(map(math.isfinite, point))]
    return [all(map(math.isfinite, point)) and not any(_beats(other, point) for other in known)
            for point in points]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
