"""Judging a step on fresh samples: how good it was, and how long it should have been."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALARS = 6
"""Numbers a test reduces over the ranks: see ``Judgement.from_sums``."""


_SIGNIFICANT = 3.0
"""Standard errors that count as a rise. A study makes a hundred tests, each false rejection halves
the radius, and it hardly recovers: with one standard error for the window, two or three of them
cost MNIST a quarter of a point."""


@dataclass(frozen=True)
class Judgement:
    """Losses on fresh samples before and after a step, with their standard errors.

    Attributes:
        before: f₀, the mean loss at the last accepted point.
        after: f₁, the mean loss at the point being judged.
        slope: q = ⟨∇f(after), step⟩, the derivative along the step at its end.
        error: Standard error of f₁.
        difference_error: Standard error of the paired difference f₁ − f₀.
        samples: How many fresh samples judged.
    """

    before: float
    after: float
    slope: float
    error: float
    difference_error: float
    samples: float

    @property
    def change(self) -> float:
        """f₁ − f₀."""
        return self.after - self.before

    @classmethod
    def from_sums(cls, sums: Sequence[float]) -> Judgement:
        """Makes a judgement from six sums over all fresh samples of all ranks.

        Args:
            sums: Σℓ₀, Σℓ₁, q·count, Σℓ₁², Σ(ℓ₁−ℓ₀)², count.
        """
        before, after, slope, squares, difference_squares, count = sums
        if not (math.isfinite(after) and math.isfinite(before) and math.isfinite(slope)):
            return cls(before, math.nan, slope, math.nan, math.nan, count)
        f0, f1 = before / count, after / count
        return cls(
            f0, f1, slope / count,
            math.sqrt(max(0.0, squares / count - f1**2) / count),
            math.sqrt(max(0.0, difference_squares / count - (f1 - f0) ** 2) / count),
            count)

    def acceptable(self, window: Sequence[float], descending: bool) -> bool:
        """Says whether the point may be kept (non-monotone, as in NAPTS, arXiv 2605.14860).

        Args:
            window: Fresh losses at the points accepted before, most recent last.
            descending: Whether the loss must not have risen at all.
        """
        if not math.isfinite(self.after):
            return False
        rise = self.change
        if rise > _SIGNIFICANT * self.difference_error or (descending and rise > 0):
            return False
        return not window or self.after <= max(window) + _SIGNIFICANT * self.error


def best_length(change: float, slope: float) -> float:
    """Returns α*, the minimiser along a step as a multiple of it.

    The parabola φ(α) through φ(0) = f₀, φ(1) = f₁ with φ'(1) = q is f₀ + aα + cα² with
    c = q − (f₁ − f₀) and a = 2(f₁ − f₀) − q. α* = 0 where it does not descend (a ≥ 0), ∞ where
    it does and is not convex (c ≤ 0), else −a / 2c: above 1 the step was too short.

    Args:
        change: f₁ − f₀.
        slope: q.
    """
    linear, quadratic = 2 * change - slope, slope - change
    if linear >= 0:
        return 0.0
    return math.inf if quadratic <= 0 else -linear / (2 * quadratic)
