"""Whether a ranking depends on the level of the target (docs/measurement.md, 1)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Stability(NamedTuple):
    """How rankings agree across levels of the target.

    Attributes:
        taus: Kendall's τ-b of each pair of levels; None where a ranking has ties only.
        winners: Cheapest optimizers by level, several if they tie, none if nobody hit it.
    """

    taus: dict[tuple[float, float], float | None]
    winners: dict[float, frozenset[str]]

    @property
    def winner_changes(self) -> bool:
        """Whether levels that somebody hit have different winners."""
        return len({names for names in self.winners.values() if names}) > 1


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's τ-b of two rankings: 1 where all pairs agree, −1 where all are reversed.

    ``(C − D) / sqrt((P − T1)(P − T2))`` of P pairs, C in the same order in both, D in opposite
    order, T tied in one ranking (Kendall, 1945). Infinite costs tie with each other.

    Args:
        first: Costs of each optimizer, shape ``(m,)``; infinite for none.
        second: Their costs under the other conditions, in the same order.

    Returns:
        τ-b, or None where one of the rankings distinguishes nobody.

    Raises:
        ValueError: Lengths differ, or a cost is unknown (NaN).
    """
    if len(first) != len(second):
        raise ValueError(f"rankings of {len(first)} and {len(second)}")
    if any(math.isnan(value) for value in (*first, *second)):
        raise ValueError("an unknown cost (NaN) has no rank")
    signs = [(_sign(first[i], first[j]), _sign(second[i], second[j]))
             for i, j in itertools.combinations(range(len(first)), 2)]
    untied = [sum(bool(sign[place]) for sign in signs) for place in (0, 1)]
    if not all(untied):
        return None
    return sum(one * other for one, other in signs) / math.sqrt(untied[0] * untied[1])


def stability(costs: Mapping[float, Mapping[str, float]]) -> Stability:
    """Compares the rankings that each level of the target gives.

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


def _sign(one: float, other: float) -> int:
    return (one > other) - (one < other)
