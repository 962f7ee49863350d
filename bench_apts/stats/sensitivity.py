"""How the success of a search depends on where in its range a hyperparameter was drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Bin(NamedTuple):
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
    """Returns the hyperparameter searched over the largest ratio of its bounds.

    Args:
        ranges: Bounds by name, as in ``Searched.ranges``.

    Returns:
        The first of the widest; None if no range is positive, so that there is no ratio.
    """
    ratios = {name: high / low for name, (low, high) in ranges.items() if 0 < low < high}
    return max(ratios, key=ratios.__getitem__) if ratios else None


def log_edges(low: float, high: float, bins: int) -> list[float]:
    """Returns ``bins + 1`` edges at equal ratios, both ends exact.

    Raises:
        ValueError: Not ``0 < low < high``, or no bin.
    """
    if not 0 < low < high or bins < 1:
        raise ValueError(f"need 0 < low < high and a bin, got {low}, {high}, {bins}")
    inner = [low * (high / low) ** (index / bins) for index in range(1, bins)]
    return [low, *inner, high]


def success(drawn: Iterable[tuple[float, bool]], edges: Sequence[float]) -> list[Bin]:
    """Counts hits between successive edges.

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
    return [Bin(low, high, *count) for low, high, count in zip(
        edges, edges[1:], counts, strict=False)]


def working_range(drawn: Iterable[tuple[float, bool]]) -> tuple[float, float] | None:
    """Returns the smallest and the largest value that hit, None if none did."""
    hits = [value for value, hit in drawn if hit]
    return (min(hits), max(hits)) if hits else None
