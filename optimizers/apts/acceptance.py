"""Settings of the published APTS, and how its iterations judge trials and move the radius.

What is decided in an outer iteration stays on the device and is read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.presets import PRESETS, SOLVERS, preset_values

if TYPE_CHECKING:
    from collections import deque


@dataclass(frozen=True)
class RadiusRule:
    """When a step is accepted and how the radius follows the acceptance ratio.

    The classical rule (Conn, Gould, Toint, Trust-Region Methods, algorithm 6.1.1): accept if
    ρ ≥ η₁; shrink if ρ < ``low``; grow if ρ > ``high``.

    Attributes:
        accept: η₁, the smallest acceptance ratio of a step that is kept; positive, so that no
            step that increases the loss ever is.
        low: Below this ratio the radius shrinks.
        high: Above this ratio the radius grows.
        shrink: Factor on the radius, below 1.
        grow: Factor on the radius, above 1.
        smallest: Lower bound of the radius.
        largest: Upper bound of the radius.
    """

    accept: float = 0.1
    low: float = 0.25
    high: float = 0.75
    shrink: float = 0.5
    grow: float = 2.0
    smallest: float = 1e-3
    largest: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.accept <= self.low <= self.high:
            raise ValueError("need 0 < accept <= low <= high")
        if not 0 < self.shrink < 1 < self.grow:
            raise ValueError("need 0 < shrink < 1 < grow")
        if not 0 < self.smallest <= self.largest:
            raise ValueError("need 0 < smallest <= largest")

    def update(self, radius: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
        """Return the next radius, within its bounds."""
        return self.resized(radius, rho).clamp(self.smallest, self.largest)

    def bounded(self, radius: float) -> bool:
        """Say whether a radius lies at one of its bounds."""
        return not self.smallest < radius < self.largest

    def resized(self, radius: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
        """Return the next radius, whatever its bounds."""
        return torch.where(rho < self.low, radius * self.shrink,
                           torch.where(rho > self.high, radius * self.grow, radius))


LOCAL = RadiusRule()
"""The rule of the paper's settings, also within a local phase."""


def acceptance_ratio(actual: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return ρ, the actual over the predicted reduction of the loss.

    A prediction that is not positive says nothing, and a step that ends in a loss that is not
    finite is the worst: both give −∞, so that such a step is rejected and the radius shrinks.
    """
    sound = actual.isfinite() & (predicted > 0)
    return torch.where(sound, actual / predicted, -torch.inf)


@dataclass(frozen=True)
class PaperSettings:
    """Settings of ``variant="paper"``; the defaults are those behind the paper's experiments.

    Attributes:
        radius: Initial trust-region radius Δ₀.
        min_radius: Lower bound of the radius.
        max_radius: Upper bound of the radius.
        accept: η₁, the smallest ratio ρ of a step that is kept, positive and at most 1/4.
        shrink: Factor on the radius where ρ < 1/4.
        grow: Factor on the radius where ρ > 3/4.
        local_iterations: H; 0 leaves out the local phase, which makes a plain data-parallel
            trust-region method of it.
        local_shrink: Factor on the local phase's own radius where its ρ < ``local_low``.
        local_grow: Factor on it where its ρ > ``local_high``.
        local_low: See ``local_shrink``.
        local_high: See ``local_grow``.
        norm: ``"l2"``: local radius Δ/N, local steps and reductions are summed; ``"linf"``:
            local radius Δ, they are averaged.
        consistency: ``"gradient"``: the correction enters local values and gradients, as the
            paper's formula says; ``"value"``: values only, as in the code behind its curves.
        capped: Whether a local displacement, and so the combined step, stays within the radius;
            False lets a local phase's own radius grow up to ``max_radius`` and bounds each step
            alone, which is how the code behind the paper's curves could leave the radius.
        global_pass: Whether an outer iteration ends with one trust-region iteration on the
            global loss.
        solver: Model and step of the local iterations: ``"first-order"``, ``"l-sr1"`` (limited
            memory, step by orthonormal basis) or ``"tr-adam"`` (Adam's direction).
        global_solver: The same for the global pass.
        memory: Pairs that L-SR1 holds.
        retries: How often a trust-region iteration, local or global, tries again with a step
            shorter by ``shrink`` (``local_shrink``) where its step is refused; 0 keeps to the
            cost model. Each try is a forward pass (a local one before the last iteration a
            backward pass too) and a global one an all-reduce of one float; the global ones stop
            at ``min_radius``.
        window: A step is accepted if it lowers the loss, by a share of the prediction, below
            the largest of the current loss and of the ``window`` − 1 losses accepted before
            (NAPTS, arXiv 2605.14860); 1 is the ordinary, monotone rule. The radius follows the
            ordinary ratio.
    """

    radius: float = 0.01
    min_radius: float = 1e-3
    max_radius: float = 4.0
    accept: float = 0.25
    shrink: float = 0.5
    grow: float = 2.0
    local_iterations: int = 5
    local_shrink: float = 0.5
    local_grow: float = 2.0
    local_low: float = 0.25
    local_high: float = 0.75
    norm: str = "l2"
    consistency: str = "gradient"
    capped: bool = True
    global_pass: bool = True
    solver: str = "first-order"
    global_solver: str = "first-order"
    memory: int = 5
    retries: int = 0
    window: int = 1

    def __post_init__(self) -> None:
        for name, known in (("norm", ("l2", "linf")), ("consistency", ("gradient", "value")),
                            ("solver", SOLVERS), ("global_solver", SOLVERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not "
                                 f"{getattr(self, name)!r}")
        if self.local_iterations < 0 or (self.local_iterations == 0 and not self.global_pass):
            raise ValueError("need local iterations, a global pass, or both")
        if not 0 < self.min_radius <= self.radius <= self.max_radius:
            raise ValueError(f"radius {self.radius} is not a positive number within "
                             f"[{self.min_radius}, {self.max_radius}]")
        if self.memory < 1 or self.window < 1 or self.retries < 0:
            raise ValueError("memory and window must be at least 1, retries at least 0")
        _ = self.rule, self.local_rule  # which complain about their numbers

    @property
    def preconditions(self) -> bool:
        """Whether there is a local phase."""
        return self.local_iterations > 0

    @property
    def rule(self) -> RadiusRule:
        """Acceptance of outer steps and of the global pass, and what the radius makes of it."""
        return RadiusRule(accept=self.accept, shrink=self.shrink, grow=self.grow,
                          smallest=self.min_radius, largest=self.max_radius)

    @property
    def local_rule(self) -> RadiusRule:
        """How a local phase's own radius follows its ratios."""
        return RadiusRule(low=self.local_low, high=self.local_high, shrink=self.local_shrink,
                          grow=self.local_grow, smallest=self.min_radius,
                          largest=self.max_radius)


def paper_settings(preset: str = "paper", **explicit: Any) -> PaperSettings:
    """Make settings from a preset, one of ``PRESETS``; explicit ones override it.

    Raises:
        ValueError: The preset is unknown, or a value is out of its range.
        TypeError: A setting is unknown.
    """
    return PaperSettings(**preset_values(PRESETS, preset, explicit))


class IterationDecision:
    """Judges the trials of one outer iteration; numbers stay on the device until ``read``.

    All of them are float64, whatever the dtype of the parameters, so that the radius and the
    ratios are those that the host would find.

    Args:
        rule: Acceptance and radius.
        value: The loss at the iterate, a scalar; NaN rejects all trials.
        radius: The radius at the beginning.
        window: Losses accepted before, that a non-monotone rule compares with.

    Attributes:
        radius: The trust-region radius, a scalar.
        started: (after ``read``) The loss where the iteration began.
        accepted: (after ``read``) Losses of the accepted trials, in order.
        marked: (after ``read``) Whether some rank's closure failed at a trial.
    """

    def __init__(
        self, rule: RadiusRule, value: torch.Tensor, radius: float, window: deque[float]
    ) -> None:
        self._rule = rule
        self._begin = self._loss = value.to(torch.float64, copy=True)
        self.radius = torch.full_like(self._begin, radius)
        # Once a trial is accepted, its loss takes the place of the oldest in the window.
        self._before = max(window, default=-math.inf)
        self._after = max(list(window)[len(window) == window.maxlen :], default=-math.inf)
        self._highest = self._begin.clamp_min(self._before)
        self._trials: list[tuple[torch.Tensor, ...]] = []
        self.started, self.accepted, self.marked = math.nan, list[float](), False

    def _ratio(
        self, trial: torch.Tensor, predicted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ρ, and whether the trial is accepted."""
        rho = acceptance_ratio(self._loss - trial, predicted)
        lowered = acceptance_ratio(self._highest - trial, predicted)
        return rho, lowered >= self._rule.accept

    def judge(self, trial: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Accept or reject a trial, and let the radius follow.

        Args:
            trial: The loss there, a scalar.
            predicted: By how much it should have fallen, a scalar.

        Returns:
            The decision, a boolean scalar.
        """
        trial, predicted = (x.to(torch.float64, copy=True) for x in (trial, predicted))
        rho, accepted = self._ratio(trial, predicted)
        self._trials.append((trial, predicted, self._loss - trial, rho, accepted))
        self.radius = self._rule.update(self.radius, rho)
        self._loss = torch.where(accepted, trial, self._loss)
        self._highest = torch.where(accepted, self._loss.clamp_min(self._after),
                                    self._loss.clamp_min(self._before))
        return accepted

    def again(self, trial: torch.Tensor, predicted: torch.Tensor) -> bool:
        """Say whether a rejected trial is worth another, nearer by; waits for the device."""
        _, accepted = self._ratio(trial.double(), predicted.double())
        wide = self.radius > self._rule.smallest
        return bool(~accepted & ~(self._loss + trial).isnan() & wide)

    def shorten(self) -> torch.Tensor:
        """Shrink the radius as after a rejection; return the factor."""
        before = self.radius
        self.radius = self._rule.update(before, torch.full_like(before, -math.inf))
        return self.radius / before

    def read(self, *others: torch.Tensor) -> tuple[list[float], dict[str, Any]]:
        """Wait for the device, once.

        Args:
            others: Further scalars to be read.

        Returns:
            Their values, and the diagnostics of the iteration.
        """
        scalars = [self._begin, self._loss, self.radius, *others]
        scalars += [number for trial in self._trials for number in trial]
        self.started, loss, radius, *numbers = torch.stack([x.double() for x in scalars]).tolist()
        found, numbers = numbers[: len(others)], numbers[len(others) :]
        last: dict[str, Any] = {}
        for number in range(len(self._trials)):
            trial, predicted, actual, rho, accepted = numbers[5 * number : 5 * number + 5]
            name = "global_" if number else ""
            last |= {f"{name}rho": rho, f"{name}accepted": bool(accepted)}
            if not number:
                last |= {"actual_reduction": actual, "predicted_reduction": predicted}
            self.accepted += [trial] * bool(accepted)
            self.marked |= math.isnan(trial) or math.isnan(predicted)
        return found, last | {"radius": radius, "loss": loss}
