"""What the steps of a trial reported, added up without waiting for a device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench_apts.plugins.optimizer_contract import StepReport

if TYPE_CHECKING:
    import torch

    from bench_apts.plugins.optimizer_contract import World
    from bench_apts.trial.contract_checks import ReportCheck

_COUNTS = ("step", "samples", "forwards", "backwards")


class StepTotals:
    """Sums of what this rank's steps reported.

    Steps are many and sums few: a report is checked at once only where it cannot be added or adds
    no samples, and else as a part of the sums.

    Args:
        world: This rank's place.
        reports: Checks reports.

    Attributes:
        step: Steps of the trial so far.
        samples: Samples of all ranks so far.
        forwards: Forward passes of this rank so far.
        backwards: Backward passes of this rank so far.
        loss: Sum of the losses since the last evaluation, a scalar (tensor).
        steps: Steps since the last evaluation.
    """

    def __init__(self, world: World, reports: ReportCheck) -> None:
        self._world, self._reports = world, reports
        self.step = self.samples = self.forwards = self.backwards = 0
        self.begin()

    def begin(self) -> None:
        """Begin to add up losses and diagnostics after an evaluation."""
        self.loss: torch.Tensor | float = 0.0
        self.steps = 0
        self._shares: dict[str, list[bool]] = {}
        self._latest: dict[str, Any] = {}

    def add(self, report: StepReport) -> bool:
        """Add one step's report, and return whether the ranks agree.

        Raises:
            ContractError: It cannot be added, or adds no samples.
        """
        before = self.samples
        try:
            total = report.total_samples
            self.samples += report.samples * self._world.size if total is None else total
            self.forwards += report.forwards
            self.backwards += report.backwards
            self.loss += report.loss  # from 0.0 a tensor of our own, which then grows in place
            for name, value in report.diagnostics.items():
                if isinstance(value, bool):
                    self._shares.setdefault(name, []).append(value)
                else:
                    self._latest[name] = value
            agreed = report.agreed
            if not self.samples > before:
                raise ValueError("no samples")
        except Exception:
            self._reports.checked(report, self._world.batch_size)  # says what is wrong
            raise
        self.steps += 1
        self.step += 1
        return agreed

    def check(self) -> None:
        """Check the sums.

        Raises:
            ContractError: What was added has a wrong type or a value that no record could hold.
        """
        if not self.steps:
            return
        total = self._reports.require_total(StepReport(
            self.loss, self.samples, self.forwards, self.backwards,
            diagnostics=dict.fromkeys(self._shares, True) | self._latest))
        # NumPy's integers are plain ones now.
        self.samples, self.forwards, self.backwards = (
            total.samples, total.forwards, total.backwards)

    def diagnostics(self) -> dict[str, float]:
        """Return bools as the share of steps where they held, numbers as their latest value."""
        shares = {name: sum(values) / len(values) for name, values in self._shares.items()}
        latest = {name: float(value) for name, value in self._latest.items()}
        return {name: value for name, value in (latest | shares).items() if math.isfinite(value)}

    def counts(self) -> dict[str, int]:
        """Return the counts of the trial so far."""
        return {name: getattr(self, name) for name in _COUNTS}

    def state(self) -> dict[str, Any]:
        """Return what was added up since the last evaluation, nested values and tensors."""
        return {"loss": self.loss, "steps": self.steps, "shares": self._shares,
                "latest": self._latest}

    def resume(self, counts: dict[str, int], state: dict[str, Any]) -> None:
        """Restore what ``counts`` and ``state`` returned."""
        for name in _COUNTS:
            setattr(self, name, counts[name])
        self.loss, self.steps = state["loss"], state["steps"]
        self._shares, self._latest = state["shares"], state["latest"]
