"""Methods that train at one point and are evaluated at another: an average of the iterates."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from bench_apts.contract import Batch, StepReport
    from bench_apts.optimizers.data_parallel import DataParallelStepper


class AveragingStepper:
    """Has an optimizer switch the parameters between its two points by ``train`` and ``eval``.

    The switch after an evaluation is part of the next step and billed to it. BatchNorm statistics
    of one point do not fit the other. Those of the average are gathered before each evaluation,
    from forward passes over training minibatches, which are billed to the method.

    Args:
        inner: Trains with such an optimizer.
        refresh: Minibatches from which BatchNorm statistics are gathered for an evaluation.
    """

    def __init__(self, inner: DataParallelStepper, refresh: int) -> None:
        self._inner, self._refresh = inner, refresh
        self._optimizer: Any = inner.optimizer

    def step(self, batch: Batch) -> StepReport:
        """Do one step of ``DataParallelStepper`` from the point that is trained."""
        self._optimizer.train()
        return self._inner.step(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner stepper's state, which knows which point its weights are."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._inner.load_state_dict(state)

    def prepare_for_eval(self, batches: Iterator[Batch]) -> None:
        """Gather the statistics of BatchNorm layers at the average, where there are any."""
        from torch.optim.swa_utils import update_bn

        self._optimizer.eval()
        if self._refresh:
            update_bn(islice(batches, self._refresh), self._inner.module)

    def evaluation_model(self) -> torch.nn.Module:
        """Return the replicated module at the average."""
        self._optimizer.eval()
        return self._inner.evaluation_model()
