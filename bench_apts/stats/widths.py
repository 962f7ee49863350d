"""What a search would have cost in a narrower range: its recorded trials, restricted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FACTORS = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
"""How closely a value may be known: within this factor of it, upwards and downwards."""

FEWEST = 3
"""Trials below which nothing is said of a range."""

_LOGARITHMIC = 10.0
"""Ratio of the ends from which a range counts as drawn from on the log scale."""


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
