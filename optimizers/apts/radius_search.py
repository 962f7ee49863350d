"""The radius of APTS-S: how a step is judged on fresh samples, and how the radius follows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALARS = 6
"""Numbers that a test reduces over the ranks: see ``StepQuality.from_sums``."""

_SIGNIFICANT = 3.0
"""Standard errors that count as a rise. A study makes a hundred tests, each false rejection halves
the radius, and it hardly recovers: with one standard error for the window, two or three of them
cost MNIST a quarter of a point."""

SMALLEST, LARGEST = 1e-7, 1.0
"""Bounds of the radius."""

RAMP = 0.05
"""Share of the budget over which steps grow to the radius once it is found."""

_FALL = 2.0
"""Standard errors that count as a fall of the loss."""

_NEGLIGIBLE = 0.25
"""Ratio of the paired error to that of the loss itself below which a step hardly changed anything:
it was 0.01 to 0.3 for radii below 3e-4, and 0.4 and more above 6e-4 (measured)."""

_TEST_SAMPLES = 128
"""Fresh samples that make one test's worth of evidence: what four ranks with 32 each draw."""


@dataclass(frozen=True)
class StepQuality:
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
    def from_sums(cls, sums: Sequence[float]) -> StepQuality:
        """Return the quality that six sums over all fresh samples of all ranks say.

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
        """Say whether the point may be kept (non-monotone, as in NAPTS, arXiv 2605.14860).

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
    """Return α*, the minimiser along a step as a multiple of it.

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


def _negligible(quality: StepQuality) -> bool:
    return quality.difference_error < _NEGLIGIBLE * quality.error


def _length(quality: StepQuality) -> float:
    """Return α*, or ∞ for a step that was too short for its test to say anything."""
    if _negligible(quality) and abs(quality.change) < _FALL * quality.difference_error:
        return math.inf
    return best_length(quality.change, quality.slope)


@dataclass
class RadiusSearch:
    """The radius and what moves it: start-up first, then small moves, and always rejections.

    Attributes:
        radius: D.
        searching: Whether start-up is going on.
        ended: Share of the budget at which it ended.
        accepted: Points accepted so far.
        moves: Tests' worth of evidence since start-up.
        change: Smoothed f₁ − f₀ of the tests since start-up.
        slope: Smoothed q of them.
    """

    radius: float
    searching: bool = True
    ended: float = 0.0
    accepted: int = 0
    moves: float = 0.0
    change: float = 0.0
    slope: float = 0.0

    @property
    def bounded(self) -> bool:
        """Whether the radius lies at one of its bounds."""
        return not SMALLEST < self.radius < LARGEST

    def ramp(self, spent: float) -> float:
        """Return the length of steps over the radius at a share of the budget."""
        return 1.0 if self.searching else min(1.0, (spent - self.ended) / RAMP)

    def accepts(self, quality: StepQuality, window: Sequence[float]) -> bool:
        """Say whether a test's point is kept.

        Args:
            quality: What the test found.
            window: Losses of the accepted points that it may be compared with.
        """
        if self.searching and _negligible(quality):
            # Losses on other samples than the earlier ones say nothing of so short a step: only
            # a significant rise on the same samples refuses it.
            return quality.acceptable((), descending=False)
        if not quality.acceptable(window, descending=self.searching):
            return False
        if not self.searching or self.accepted:
            return True
        # The first point that start-up accepts must be better, or say that the step was short. A
        # step that killed the network ends on a plateau, where the loss is hardly lower and the
        # parabola says that the step was long enough: from there nothing would ever be rejected.
        significant = quality.change <= -_FALL * quality.difference_error
        return significant or _length(quality) > 1

    def update(self, quality: StepQuality, accepted: bool, spent: float, settled: bool) -> None:
        """Move the radius after a test.

        Args:
            quality: What the test found.
            accepted: Whether the point is kept.
            spent: Share of the budget that is used up.
            settled: Whether only a rejection may still move it.
        """
        self.accepted += accepted
        if self.searching:
            self._bracket(accepted, _length(quality), spent)
        elif not accepted:
            self._resize(0.5)
        elif not settled:
            self._adapt(quality)

    def _bracket(self, accepted: bool, length: float, spent: float) -> None:
        """Bracket the radius from below during start-up."""
        if accepted and length > 1:
            self._resize(4.0 if length >= 4 else 2.0)
            return
        if not self.accepted:
            self._resize(1 / 64)
            return
        # Back to before the last extension, which nothing has confirmed: a radius twice too short
        # costs less than one twice too long.
        self._resize(0.25 if not accepted or length < 0.4 else 0.5)
        self.searching = False
        self.ended = spent

    def _adapt(self, quality: StepQuality) -> None:
        """Move the radius after start-up, by ever smaller factors, from smoothed tests."""
        # A test counts by its samples, so that few ranks, whose tests are small and many, move
        # the radius by the same evidence as many ranks.
        weight = quality.samples / _TEST_SAMPLES
        memory = 0.7**weight
        self.change = memory * self.change + weight * quality.change
        self.slope = memory * self.slope + weight * quality.slope
        length = best_length(self.change, self.slope)
        move = (1 + 0.25 / (1 + self.moves / 8)) ** weight
        self.moves += weight
        if length > 0.75:
            self._resize(move)
        elif length < 0.4:
            self._resize(1 / move)

    def double_budget(self) -> None:
        """Halve the shares of the budget that are remembered: it is twice as long as thought."""
        self.ended /= 2

    def _resize(self, factor: float) -> None:
        self.radius = min(LARGEST, max(SMALLEST, self.radius * factor))

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, value in state.items():
            setattr(self, name, value)
