"""The arithmetic of the rule: median less one standard deviation, rounded towards easier."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    Direction = Literal["max", "min"]

_LEAST_SHARE = Decimal("0.001")
"""Share of the median below which no step is finer: three significant digits."""

_EXACT = Context(prec=1_000)
"""Decimals of this context hold any quotient of a float and a step to its last digit before 1."""


@dataclass(frozen=True)
class Bound:
    """A target and the numbers that it is made of, all in the metric's unit.

    Attributes:
        value: The target.
        median: Of the final values.
        std: Their standard deviation, of a sample.
        step: The target is a multiple of it.
    """

    value: float
    median: float
    std: float
    step: float


def bound(values: Sequence[float], direction: Direction) -> Bound:
    """Return the target that the final values of one configuration give.

    It is the median moved by one standard deviation towards easier, and then to the next
    multiple of ``step`` in the same direction.

    Args:
        values: Final validation values over seeds, at least two.
        direction: Whether more (``"max"``) or less (``"min"``) of the metric is better.
    """
    median, std = statistics.median(values), statistics.stdev(values)
    unit = step(median, std)
    easier = median - std if direction == "max" else median + std
    return Bound(rounded(easier, unit, direction), median, std, float(unit))


def step(median: float, std: float) -> Decimal:
    """Return the largest number 1, 2 or 5 times a power of ten that does not exceed a size.

    The size is the standard deviation, or a thousandth of the median where that is more; a step
    of 1e-12 where both are 0.
    """
    size = max(_decimal(std), _decimal(abs(median)) * _LEAST_SHARE)
    if not size:
        return Decimal("1e-12")
    power = Decimal(1).scaleb(size.adjusted())
    return max(factor * power for factor in (1, 2, 5) if factor * power <= size)


def rounded(value: float, unit: Decimal, direction: Direction) -> float:
    """Return the nearest multiple of a step that is as easy to reach as ``value``, or easier.

    A value that is a multiple stays as it is.
    """
    towards = ROUND_FLOOR if direction == "max" else ROUND_CEILING
    multiples = _EXACT.divide(_decimal(value), unit).to_integral_value(towards)
    return float(_EXACT.multiply(multiples, unit))


def better(medians: Sequence[float], direction: Direction) -> int:
    """Return the place of the better median; of equals the first."""
    best = max(medians) if direction == "max" else min(medians)
    return list(medians).index(best)


def _decimal(value: float) -> Decimal:
    """Return the shortest decimal that a float is written as: 0.3, not 0.299999999999999988898."""
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return Decimal(repr(float(value)))
