"""Pareto fronts: who is beaten by nobody in all of several costs at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def on_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Says of each point whether no other is at least as low in all costs and lower in one.

    Args:
        points: Costs, lower is better, shape ``(points, costs)``. A point with a cost that is
            infinite or unknown (NaN) is on no front and beats nobody.

    Returns:
        One answer for each point; equal points are on the front together.
    """
    known = [point for point in points if all(map(math.isfinite, point))]
    return [all(map(math.isfinite, point)) and not any(_beats(other, point) for other in known)
            for point in points]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
