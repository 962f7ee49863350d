"""How a search depends on its range: success by value, and costs of narrower ranges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FACTORS = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
"""How closely a value may be known: within this factor of it, upwards and downwards."""

FEWEST = 3
"""Trials below which nothing is said of a range."""

_LOGARITHMIC = 10.0
"""Ratio of the ends from which a range counts as drawn from on the log scale."""


class RangeBin(NamedTuple):
    """Trials whose hyperparameter lies in ``[low, high)``; the last bin holds its end too.

    Attributes:
        low: Lower end.
        high: Upper end; equal to ``low`` for a single value.
        hits: Trials that reached the target.
        trials: All trials.
    """

    low: float
    high: float
    hits: int
    trials: int


def widest(ranges: Mapping[str, tuple[float, float]]) -> str | None:
    """Return the hyperparameter searched over the largest ratio of its bounds.

    Args:
        ranges: Bounds by name, as in ``Searched.ranges``.

    Returns:
        The first of the widest; None if no range is positive, so that there is no ratio.
    """
    ratios = {name: high / low for name, (low, high) in ranges.items() if 0 < low < high}
    return max(ratios, key=ratios.__getitem__) if ratios else None


def log_edges(low: float, high: float, bins: int) -> list[float]:
    """Return ``bins + 1`` edges at equal ratios, both ends exact.

    Raises:
        ValueError: Not ``0 < low < high``, or no bin.
    """
    if not 0 < low < high or bins < 1:
        raise ValueError(f"need 0 < low < high and a bin, got {low}, {high}, {bins}")
    inner = [low * (high / low) ** (index / bins) for index in range(1, bins)]
    return [low, *inner, high]


def success_by_bin(drawn: Iterable[tuple[float, bool]], edges: Sequence[float]) -> list[RangeBin]:
    """Count hits between successive edges.

    Args:
        drawn: Value and whether it hit, of each trial.
        edges: Ascending, at least two. Values beyond them (a search may round at its bounds)
            count in the outermost bins.

    Raises:
        ValueError: A value is unknown.
    """
    counts = [[0, 0] for _ in edges[1:]]
    for value, hit in drawn:
        if math.isnan(value):
            raise ValueError("the value of a trial is unknown")
        index = sum(value >= edge for edge in edges[1:-1])
        counts[index][0] += hit
        counts[index][1] += 1
    return [RangeBin(low, high, *count) for low, high, count in zip(
        edges, edges[1:], counts, strict=False)]


def working_range(drawn: Iterable[tuple[float, bool]]) -> tuple[float, float] | None:
    """Return the smallest and the largest value that hit, None if none did."""
    hits = [value for value, hit in drawn if hit]
    return (min(hits), max(hits)) if hits else None


class Width(NamedTuple):
    """Trials of one range.

    Attributes:
        factor: The value is known within this factor; infinite for the whole range.
        low: Lower end.
        high: Upper end.
        inside: Places of the trials whose value lies within, both ends included.
    """

    factor: float
    low: float
    high: float
    inside: tuple[int, ...]


def logarithmic(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return the ranges that were drawn from on the log scale: positive ones of a decade or more.

    Records hold the ends of a range, and not how it was drawn from.
    """
    return {name: ends for name, ends in ranges.items()
            if ends[0] > 0 and ends[1] >= _LOGARITHMIC * ends[0]}


def widths(values: Sequence[float], low: float, high: float, around: float,
           factors: Sequence[float] = FACTORS) -> list[Width]:
    """Restrict trials to narrower and narrower ranges around a value.

    A range that is as wide as the one before, or holds fewer than ``FEWEST`` trials, is left out.
    Trials that were drawn on the log scale are, of those inside, draws from the narrower range.

    Args:
        values: Of each trial, positive, shape ``(n,)``.
        low: Lower end of what was searched.
        high: Upper end.
        around: The value that is known.
        factors: How closely, in descending order.

    Returns:
        The whole range first, if it holds trials enough.

    Raises:
        ValueError: A number is not positive.
    """
    if not min(low, high, around, *values) > 0:
        raise ValueError("ranges on the log scale take positive numbers")
    found: list[Width] = []
    ends = None
    for factor in (math.inf, *factors):
        narrowed = max(low, around / factor), min(high, around * factor)
        # A value at an end, such as 0.1, must not fall out by rounding.
        inside = tuple(place for place, value in enumerate(values)
                       if narrowed[0] * (1 - 1e-9) <= value <= narrowed[1] * (1 + 1e-9))
        if narrowed != ends and len(inside) >= FEWEST:
            found.append(Width(factor, *narrowed, inside))
        ends = narrowed
    return found
