"""The radius of APTS-S from the way that the weights have gone: a prior that evidence moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.optimizers.apts.radius_search import RadiusSearch

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.radius_search import StepQuality

_GROWTH = 0.1
"""Share of the budget over which steps grow to the radius at the beginning, and after a rejection:
with half of it a short training of a GPT lost 5 to 7 % of its loss (measured)."""

FIRST_STEP = 0.05
"""Length of the first steps of the ramp at the beginning, as a share of the radius."""

_UNCLEAR, _CERTAIN = 1.0, 3.0
"""Standard errors outside of the band at which the radius begins to move, and is at full speed."""

_AGAIN = 0.1
"""Share of the budget within which a second rejection says that the radius is too long: the first
may have been the accident of one step."""

_FEWEST = 6
"""Rounds from which on the errors are known well enough."""

_LONGEST_MOVE = 1.0
"""Doublings or halvings at most by one round's evidence, where a round is a large part of all."""


class Stage(NamedTuple):
    """A part of the budget, and what moves the radius in it.

    Attributes:
        begin: Share of the budget at which the radius begins to move.
        end: Share at which it ends.
        low: Overshoot below which the radius grows.
        high: Overshoot above which it shrinks.
        speed: Doublings per budget at most.
        memory: Rounds that the estimate of the overshoot remembers.
    """

    begin: float
    end: float
    low: float
    high: float
    speed: float
    memory: int


EARLY = Stage(0.05, 0.1, -0.35, 0.6, 50.0, 6)
"""Finds a wrong order of magnitude, by the way since the first weights: its overshoot is -0.5 on a
straight descent, and was -0.2 to 0.4 where the radius was of the right order."""

LATE = Stage(0.2, 0.5, -0.1, 0.6, 10.0, 12)
"""By the way since the end of the early stage. Fixed radii within 0.3 points of the best one had
overshoots of -0.1 to 0.5."""


@dataclass
class RadiusDrift(RadiusSearch):
    """The radius begins at a prior and moves where significant evidence says so.

    The way is w - o, from an origin o: the first weights, later those at the end of the early
    stage. Its overshoot is q / (|q| + |f(w) - f(o)|) with q = <grad f(w), w - o>, the derivative
    of the loss by the logarithm of the radius if all steps of the way scaled with it: the quantity
    whose sums estimate the distance to the solution in D-adaptation (arXiv 2301.07733). It is -1/2
    on a straight descent, 0 where the loss is lowest along the way, and positive where going back
    a little would lower the loss: then the noise that steps of this length keep up costs more than
    they have gained since o. Every round measures q and f by the first minibatch at w, at no
    further pass. A test of the last few steps prefers short ones, since noise hides the slow gain
    of long ones; a way of a tenth of the budget or more does not.

    Within a band of overshoots the radius stays; outside it moves, the faster the more standard
    errors the overshoot lies outside, up to a limit. Evidence counts by its measured error
    thereby, and radii that start equal stay equal unless it is significant.

    Attributes:
        renewed: Whether the origin is that of the late stage.
        seen: Rounds since the origin.
        slope: Smoothed q.
        loss: Smoothed f(w).
        slope_variance: Of a round's q: half of the mean squared difference of successive ones.
        loss_variance: Of a round's f(w).
        last_slope: q of the last round.
        last_loss: f(w) of the last round.
        origin_loss: Mean of f over the first rounds from the origin on.
        origin_rounds: How many those are.
        spent: Share of the budget at the last round.
        rejected: Share of the budget at the last rejection.
    """

    searching: bool = False
    renewed: bool = False
    seen: int = 0
    loss: float = 0.0
    slope_variance: float = 0.0
    loss_variance: float = 0.0
    last_slope: float = 0.0
    last_loss: float = 0.0
    origin_loss: float = 0.0
    origin_rounds: int = 0
    spent: float = 0.0
    rejected: float = -1.0

    @property
    def stage(self) -> Stage:
        """The stage that the origin belongs to."""
        return LATE if self.renewed else EARLY

    def ramp(self, spent: float) -> float:
        """Return the length of steps over the radius.

        They grow to it at the beginning, and from half of it after a rejection.
        """
        since = spent - self.rejected
        return min(1.0, FIRST_STEP + spent / _GROWTH) * min(1.0, 0.5 + 0.5 * since / _GROWTH)

    def double_budget(self) -> None:
        """Halve the shares that are remembered, and have the late stage begin once more."""
        super().double_budget()
        self.spent /= 2
        if self.rejected > 0:
            self.rejected /= 2
        self.renewed = False

    def renews(self, spent: float) -> bool:
        """Say, once, that the way starts again at the present weights."""
        if self.renewed or spent < EARLY.end:
            return False
        self.renewed = True
        self.seen = self.origin_rounds = 0
        self.slope = self.loss = self.slope_variance = self.loss_variance = 0.0
        return True

    def follows(self, spent: float) -> bool:
        """Say whether the way is measured at this share of the budget."""
        return spent < LATE.end

    def observe(self, slope: float, loss: float, spent: float) -> float:
        """Count a round's evidence in and move the radius.

        Args:
            slope: q, on the first minibatches of the round at its start.
            loss: f(w) on the same.
            spent: Share of the budget that is used up.

        Returns:
            The overshoot.
        """
        passed, self.spent = max(0.0, spent - self.spent), spent
        if not (math.isfinite(slope) and math.isfinite(loss)):
            return math.nan  # the next test rejects such weights
        self._count(slope, loss)
        stage = self.stage
        overshoot, error = self.overshoot()
        if self.seen >= _FEWEST and stage.begin <= spent < stage.end:
            outside = max(stage.low - overshoot, overshoot - stage.high) / error
            share = max(0.0, min(1.0, (outside - _UNCLEAR) / (_CERTAIN - _UNCLEAR)))
            move = min(_LONGEST_MOVE, share * stage.speed * passed)
            self._resize(2.0 ** math.copysign(move, stage.low - overshoot))
        return overshoot

    def _count(self, slope: float, loss: float) -> None:
        """Update means and variances, that forget exponentially once they are long enough."""
        memory = self.stage.memory
        self.seen += 1
        share = max(1 / self.seen, 1 / memory)
        self.slope += share * (slope - self.slope)
        self.loss += share * (loss - self.loss)
        if self.seen > 1:
            share = max(1 / (self.seen - 1), 1 / (2 * memory))
            self.slope_variance += share * (
                (slope - self.last_slope) ** 2 / 2 - self.slope_variance)
            self.loss_variance += share * ((loss - self.last_loss) ** 2 / 2 - self.loss_variance)
        self.last_slope, self.last_loss = slope, loss
        # The early origin is before the first step, where one round's loss is known well enough.
        if self.origin_rounds < (memory // 2 if self.renewed else 1):
            self.origin_rounds += 1
            self.origin_loss += (loss - self.origin_loss) / self.origin_rounds

    def overshoot(self) -> tuple[float, float]:
        """Return the overshoot of the way, -1 to 1, and its standard error.

        For u = q / (|q| + |d|), d being the change of the loss, du = (|d| dq - |q| d|d|) /
        (|q| + |d|)^2, where values below their errors count as much as those.
        """
        change = abs(self.loss - self.origin_loss)
        # Exponential means have the variance of 2 * memory - 1 equal weights.
        effective = min(self.seen, 2 * self.stage.memory - 1)
        slope_error = math.sqrt(self.slope_variance / effective)
        loss_error = math.sqrt(self.loss_variance * (
            1 / effective + (1 / self.origin_rounds if self.renewed else 0)))
        scale = abs(self.slope) + change + 1e-30
        error = math.hypot(max(change, loss_error) * slope_error,
                           max(abs(self.slope), slope_error) * loss_error) / scale**2
        return self.slope / scale, error + 1e-12

    def update(
        self, quality: StepQuality, accepted: bool, spent: float, settled: bool
    ) -> None:
        """Shorten the steps after a rejection, and halve the radius if it is not the first.

        Args:
            quality: What the test found.
            accepted: Whether the point is kept.
            spent: Share of the budget that is used up.
            settled: Tests move the radius no further in any case.
        """
        if accepted:
            return
        if spent - self.rejected < _AGAIN:
            self._resize(0.5)
        self.rejected = spent
