"""What a training problem is: losses of samples, and the metrics that evaluate them.

Importing this module does not import torch, so that a suite can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench_apts.plugins.optimizer_contract import Batch

    Sums = Mapping[str, tuple[torch.Tensor | float, torch.Tensor | float]]

Model = Callable[..., Any]


@dataclass(frozen=True)
class Metric:
    """A number that evaluation reports.

    Attributes:
        direction: ``"min"`` where lower is better, ``"max"`` where higher is.
        unit: Its unit, for instance ``"nats"`` or ``"K"``; ``"%"`` for a fraction, which is
            shown in percent; "" for none.
        final: Makes the metric from the sum over all samples divided by the count, for instance
            ``math.sqrt`` or ``math.exp``.
    """

    direction: Literal["min", "max"]
    unit: str = ""
    final: Callable[[float], float] = float

    def value(self, total: float, count: float) -> float:
        """Return the metric of a sum and a count; NaN where it has none."""
        try:
            return float(self.final(total / count))
        except (ArithmeticError, ValueError):
            return math.nan


LOSS = Metric("min")
"""The mean loss of a sample, which every task has under the name ``loss``."""


class Task:
    """A training problem: subclass it and write ``losses``; ``measures`` gives further metrics.

    What optimizers train is then a module that wraps the network; its forward pass takes the
    whole batch and returns these losses. Losses may use derivatives of the network, several of
    its outputs or auxiliary terms. Where they depend only on the network's output and the
    targets, subclass ``OutputTask``.

    Attributes:
        metrics: The metrics that ``measures`` returns, by name. ``loss`` is there in any case.
        contiguous: Whether validation takes the last training samples, as a text needs, instead
            of drawing them.
    """

    metrics: Mapping[str, Metric] = {}
    contiguous: bool = False

    def losses(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return one loss per sample, ``(b,)`` floats, differentiable.

        Args:
            model: The network; call it, with what is needed of ``batch.inputs``, as often as
                needed.
            batch: Inputs ``(b, …)``, normalised floats or int64, or a dictionary of tensors, and
                targets ``(b, …)``.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no losses(model, batch)")

    def measures(self, model: Model, batch: Batch) -> Sums:
        """Return each metric of ``metrics`` as a sum over the batch and what it counts.

        Sums and counts are added up over all samples and ranks, so a metric may count tokens.

        Args:
            model: The network, in evaluation mode.
            batch: As in ``losses``.
        """
        return {}

    def check(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Check a split before the first trial.

        Args:
            inputs: ``(n, …)``.
            targets: ``(n, …)``.

        Raises:
            ValueError: The task cannot be trained on it, in one line.
        """


class OutputTask(Task):
    """A task whose losses need only what the network returns for the inputs, and the targets.

    What optimizers train is the network itself: its forward pass takes the inputs and returns
    the output, which they hand to ``loss``.
    """

    def loss(self, output: Any, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Return the mean or the sum of the samples' losses, or all of them, ``(b,)``.

        Args:
            output: What the network returned.
            targets: ``(b, …)``.
            reduction: ``"mean"``, ``"sum"`` or ``"none"``, as of torch's losses.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no loss(output, targets)")

    def score(self, output: Any, targets: torch.Tensor) -> Sums:
        """Return what ``measures`` does, of an output and its targets."""
        return {}

    def losses(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the losses of the network's output."""
        return self.loss(model(batch.inputs), batch.targets, reduction="none")

    def measures(self, model: Model, batch: Batch) -> Sums:
        """Return the metrics of the network's output."""
        return self.score(model(batch.inputs), batch.targets)


def reduced(losses: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the ``"mean"`` or the ``"sum"`` of losses, or with ``"none"`` the losses."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def every_metric(task: Task) -> dict[str, Metric]:
    """Return a task's metrics by name, in the order in which they are added up."""
    return {**{name: task.metrics[name] for name in sorted(task.metrics)}, "loss": LOSS}
