"""The trust-region radius and the acceptance of steps: pure functions of scalars on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
        """Returns the next radius, within its bounds."""
        return self.resized(radius, rho).clamp(self.smallest, self.largest)

    def bounded(self, radius: float) -> bool:
        """Says whether a radius lies at one of its bounds."""
        return not self.smallest < radius < self.largest

    def resized(self, radius: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
        """Returns the next radius, whatever its bounds."""
        return torch.where(rho < self.low, radius * self.shrink,
                           torch.where(rho > self.high, radius * self.grow, radius))


LOCAL = RadiusRule()
"""The rule of the paper's settings, also within a local phase."""


def acceptance_ratio(actual: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Returns ρ, the actual over the predicted reduction of the loss.

    A prediction that is not positive says nothing, and a step that ends in a loss that is not
    finite is the worst: both give −∞, so that such a step is rejected and the radius shrinks.
    """
    sound = actual.isfinite() & (predicted > 0)
    return torch.where(sound, actual / predicted, -torch.inf)
