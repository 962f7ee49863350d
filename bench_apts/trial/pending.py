"""What the steps since the last evaluation reported, summed without waiting for the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from bench_apts.plugins.contract import StepReport


class Pending:
    """Sums of losses, and diagnostics as the record holds them.

    Attributes:
        loss: Sum of the steps' losses, a scalar (tensor).
        steps: Number of steps.
    """

    def __init__(self) -> None:
        self.loss: torch.Tensor | float = 0.0
        self.steps = 0
        self._shares: dict[str, list[Any]] = {}
        self._latest: dict[str, Any] = {}

    def add(self, report: StepReport) -> None:
        """Takes in one step's report."""
        self.loss += report.loss  # from 0.0 a tensor of our own, which then grows in place
        self.steps += 1
        for name, value in report.diagnostics.items():
            if isinstance(value, bool):
                self._shares.setdefault(name, []).append(value)
            else:
                self._latest[name] = value

    def state(self) -> dict[str, Any]:
        """Returns the sums, nested values and tensors."""
        return {"loss": self.loss, "steps": self.steps, "shares": self._shares,
                "latest": self._latest}

    def resume(self, state: dict[str, Any]) -> None:
        """Takes back what ``state`` returned."""
        self.loss, self.steps = state["loss"], state["steps"]
        self._shares, self._latest = state["shares"], state["latest"]

    def diagnostics(self) -> dict[str, float]:
        """Returns bools as the share of steps where they held, numbers as their latest value."""
        shares = {name: sum(values) / len(values) for name, values in self._shares.items()}
        latest = {name: float(value) for name, value in self._latest.items()}
        return {name: value for name, value in (latest | shares).items() if math.isfinite(value)}


def mean_loss(total: float, steps: float) -> float | None:
    """Return the mean of so many steps' losses; None where there are none, or it is not finite."""
    mean = total / steps if steps else math.nan
    return mean if math.isfinite(mean) else None
