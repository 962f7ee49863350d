"""How the radius of APTS-S is found, and how it follows what fresh minibatches say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench_apts.optimizers.apts.judgement import best_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.optimizers.apts.judgement import Judgement

SMALLEST, LARGEST = 1e-7, 1.0
"""Bounds of the radius."""

_FALL = 2.0
"""Standard errors that count as a fall of the loss."""

_NEGLIGIBLE = 0.25
"""Ratio of the paired error to that of the loss itself below which a step hardly changed anything:
it was 0.01 to 0.3 for radii below 3e-4, and 0.4 and more above 6e-4 (measured)."""

_TEST_SAMPLES = 128
"""Fresh samples that make one test's worth of evidence: what four ranks with 32 each draw."""


def _negligible(verdict: Judgement) -> bool:
    return verdict.difference_error < _NEGLIGIBLE * verdict.error


def _length(verdict: Judgement) -> float:
    """Returns α*, or ∞ for a step that was too short for its test to say anything."""
    if _negligible(verdict) and abs(verdict.change) < _FALL * verdict.difference_error:
        return math.inf
    return best_length(verdict.change, verdict.slope)


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

    def accepts(self, verdict: Judgement, window: Sequence[float]) -> bool:
        """Whether a test's point is kept.

        Args:
            verdict: What the test said.
            window: Losses of the accepted points that it may be compared with.
        """
        if self.groping(verdict):
            return verdict.acceptable((), descending=False)
        return (verdict.acceptable(window, descending=self.searching)
                and self.convinced(verdict))

    def groping(self, verdict: Judgement) -> bool:
        """Whether this is start-up after a step so short that only a plain rise refuses it.

        Losses on other samples than the earlier ones then say nothing of the step.
        """
        return self.searching and _negligible(verdict)

    def convinced(self, verdict: Judgement) -> bool:
        """Whether start-up may take a point that is no worse for its first accepted one.

        A step that killed the network ends on a plateau, where the loss is hardly lower and the
        parabola says that the step was long enough. From there nothing would ever be rejected.
        """
        if not self.searching or self.accepted:
            return True
        significant = verdict.change <= -_FALL * verdict.difference_error
        return significant or _length(verdict) > 1

    def update(self, verdict: Judgement, accepted: bool, spent: float, settled: bool) -> None:
        """Moves the radius after a test.

        Args:
            verdict: What the test said.
            accepted: Whether the point is kept.
            spent: Share of the budget that is used up.
            settled: Whether only a rejection may still move it.
        """
        self.accepted += accepted
        if self.searching:
            self._bracket(accepted, _length(verdict), spent)
        elif not accepted:
            self._resize(0.5)
        elif not settled:
            self._adapt(verdict)

    def _bracket(self, accepted: bool, length: float, spent: float) -> None:
        """Start-up: brackets the radius from below."""
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

    def _adapt(self, verdict: Judgement) -> None:
        """After start-up: moves that get smaller and smaller, from smoothed tests.

        A test counts by its samples, so that few ranks, whose tests are small and many, move the
        radius by the same evidence as many ranks.
        """
        weight = verdict.samples / _TEST_SAMPLES
        memory = 0.7**weight
        self.change = memory * self.change + weight * verdict.change
        self.slope = memory * self.slope + weight * verdict.slope
        length = best_length(self.change, self.slope)
        move = (1 + 0.25 / (1 + self.moves / 8)) ** weight
        self.moves += weight
        if length > 0.75:
            self._resize(move)
        elif length < 0.4:
            self._resize(1 / move)

    def _resize(self, factor: float) -> None:
        self.radius = min(LARGEST, max(SMALLEST, self.radius * factor))

    def state_dict(self) -> dict[str, Any]:
        """Returns all of it, plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        for name, value in state.items():
            setattr(self, name, value)
