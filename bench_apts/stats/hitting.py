"""Hitting a target: the first of several successive evaluations that reach it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def bracket(
    values: Sequence[float], reached: Callable[[float], bool], consecutive: int
) -> tuple[int | None, int] | None:
    """Finds the bracket ``(last miss, first hit]`` of a target (docs/measurement.md, 1).

    A hit is the first of ``consecutive`` successive evaluations that all reach the target, and
    all of them must exist: a curve that ends too early has not hit. NaN never reaches.

    Args:
        values: The metric at successive evaluations, shape ``(evaluations,)``.
        reached: Says whether one value is at or beyond the target.
        consecutive: How many evaluations in a row make a hit, at least 1.

    Returns:
        The index of the last evaluation before the hit (None if the hit is the first one) and
        the index of the hit, or None if the target was never hit.

    Raises:
        ValueError: ``consecutive`` is below 1.
    """
    if consecutive < 1:
        raise ValueError(f"consecutive must be at least 1, got {consecutive}")
    run = 0
    for index, value in enumerate(values):
        # Said here, because a caller writing `not value < threshold` would let a NaN in.
        run = run + 1 if reached(value) and not math.isnan(value) else 0
        if run == consecutive:
            first = index - consecutive + 1
            return (first - 1 if first else None), first
    return None
