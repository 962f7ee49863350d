"""Tasks of the suites whose losses or metrics no ready-made task has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench_apts.tasks import Metric, Task
from bench_apts.tasks.named_tasks import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from bench_apts.plugins.optimizer_contract import Batch
    from bench_apts.tasks.task import Model, Sums


class Recall(LanguageModel):
    """A language model that is also measured by ``accuracy``, the share of its tokens predicted.

    Targets of -100 do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics = {**self.metrics, "accuracy": Metric("max", "%")}

    def score(self, output: Any, targets: torch.Tensor) -> Sums:
        """Count the tokens whose largest logit is right, besides the cross-entropy."""
        right = (output.argmax(dim=-1) == targets).sum()  # no logit has the number -100
        nats = super().score(output, targets)
        return {**nats, "accuracy": (right, nats["nats_per_token"][1])}


class Poisson(Task):
    """Poisson's equation with the data of ``generated.collocation``, by a network's residuals.

    ``l2`` is the error relative to the solution, both by their L2 norms.

    Args:
        weight: Factor of the boundary's residuals.
    """

    metrics: Mapping[str, Metric] = {"l2": Metric("min", "", math.sqrt)}

    def __init__(self, weight: float = 100.0) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight = {weight}: expected a number of at least 0")
        self.weight = weight

    def losses(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the squared residuals, ``(b,)``: ``pinn.poisson_losses``."""
        from bench_apts.suites.networks.pinn import poisson_losses

        return poisson_losses(model, batch.inputs, batch.targets, self.weight)

    def measures(self, model: Model, batch: Batch) -> Sums:
        """Add up the squares of the error and of the solution."""
        error = model(batch.inputs) - batch.targets
        return {"l2": (error.double().square().sum(), batch.targets.double().square().sum())}
