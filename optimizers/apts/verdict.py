"""The course of an outer iteration: what is decided in it, on the device, and read once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.radius import RadiusRule, acceptance_ratio

if TYPE_CHECKING:
    from collections import deque


class Course:
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
        # Once a trial is accepted, the oldest loss makes room for its.
        self._before = max(window, default=-math.inf)
        self._after = max(list(window)[len(window) == window.maxlen :], default=-math.inf)
        self._highest = self._begin.clamp_min(self._before)
        self._told: list[tuple[torch.Tensor, ...]] = []
        self.started, self.accepted, self.marked = math.nan, list[float](), False

    def _ratio(
        self, trial: torch.Tensor, predicted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ρ, and whether the trial is accepted."""
        rho = acceptance_ratio(self._loss - trial, predicted)
        lowered = acceptance_ratio(self._highest - trial, predicted)
        return rho, lowered >= self._rule.accept

    def judge(self, trial: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Accepts or rejects a trial, and lets the radius follow.

        Args:
            trial: The loss there, a scalar.
            predicted: By how much it should have fallen, a scalar.

        Returns:
            The decision, a boolean scalar.
        """
        trial, predicted = (x.to(torch.float64, copy=True) for x in (trial, predicted))
        rho, accepted = self._ratio(trial, predicted)
        self._told.append((trial, predicted, self._loss - trial, rho, accepted))
        self.radius = self._rule.update(self.radius, rho)
        self._loss = torch.where(accepted, trial, self._loss)
        self._highest = torch.where(accepted, self._loss.clamp_min(self._after),
                                    self._loss.clamp_min(self._before))
        return accepted

    def again(self, trial: torch.Tensor, predicted: torch.Tensor) -> bool:
        """Returns whether a rejected trial is worth another, nearer by; waits for the device."""
        _, accepted = self._ratio(trial.double(), predicted.double())
        wide = self.radius > self._rule.smallest
        return bool(~accepted & ~(self._loss + trial).isnan() & wide)

    def shorten(self) -> torch.Tensor:
        """Shrinks the radius as after a rejection; returns the factor."""
        before = self.radius
        self.radius = self._rule.update(before, torch.full_like(before, -math.inf))
        return self.radius / before

    def read(self, *others: torch.Tensor) -> tuple[list[float], dict[str, Any]]:
        """Waits for the device, once.

        Args:
            others: Further scalars to be read.

        Returns:
            Their values, and the diagnostics of the iteration.
        """
        told = [self._begin, self._loss, self.radius, *others]
        told += [number for trial in self._told for number in trial]
        self.started, loss, radius, *numbers = torch.stack([x.double() for x in told]).tolist()
        found, numbers = numbers[: len(others)], numbers[len(others) :]
        last: dict[str, Any] = {}
        for number in range(len(self._told)):
            trial, predicted, actual, rho, accepted = numbers[5 * number : 5 * number + 5]
            name = "global_" if number else ""
            last |= {f"{name}rho": rho, f"{name}accepted": bool(accepted)}
            if not number:
                last |= {"actual_reduction": actual, "predicted_reduction": predicted}
            self.accepted += [trial] * bool(accepted)
            self.marked |= math.isnan(trial) or math.isnan(predicted)
        return found, last | {"radius": radius, "loss": loss}
