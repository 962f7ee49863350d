"""Schedule-Free AdamW from its authors' package, data-parallel.

Defazio et al., The Road Less Scheduled, arXiv 2405.15682; package ``schedulefree``. Gradients are
taken at y, the average x of the iterates is what is evaluated, and no learning rate decays.

BatchNorm statistics of y do not fit x. As the authors advise, those of x are gathered before each
evaluation, from forward passes over training minibatches, which are billed to the method. Theirs
are 50 and a running average; the plain average that is taken here needs fewer.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from bench_apts import contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from bench_apts.optimizers.data_parallel import DataParallelStepper


class ScheduleFreeStepper:
    """Keeps y in the parameters for a step and x for an evaluation.

    Besides z only one of the two is held: the package computes it from the other in place. The
    switch after an evaluation is part of the next step and billed to it. The pair of switches
    rounds, so how often the model is evaluated changes the trajectory in the last digits.

    Args:
        inner: Trains with the package's optimizer.
        refresh: Minibatches from which BatchNorm statistics are gathered for an evaluation.
    """

    def __init__(self, inner: DataParallelStepper, refresh: int) -> None:
        self._inner, self._refresh = inner, refresh
        self._optimizer: Any = inner.optimizer

    def step(self, batch: contract.Batch) -> contract.StepReport:
        """Do one step of ``DataParallelStepper`` from y."""
        self._optimizer.train()
        return self._inner.step(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner stepper's state, which knows whether its weights are x or y."""
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._inner.load_state_dict(state)

    def prepare_for_eval(self, batches: Iterator[contract.Batch]) -> None:
        """Gather the statistics of BatchNorm layers at x, where there are any."""
        from torch.optim.swa_utils import update_bn

        self._optimizer.eval()
        if self._refresh:
            update_bn(islice(batches, self._refresh), self._inner.module)

    def evaluation_model(self) -> torch.nn.Module:
        """Return the replicated module at x."""
        self._optimizer.eval()
        return self._inner.evaluation_model()


def build(
    model: torch.nn.Module, loss: contract.Loss, values: Mapping[str, Any], world: contract.World
) -> contract.Stepper:
    """Build the package's ``AdamWScheduleFree`` under DistributedDataParallel."""
    from schedulefree import AdamWScheduleFree

    from bench_apts.optimizers.data_parallel import DataParallelStepper

    steps = math.ceil(world.budget_samples / world.batch_size)
    return ScheduleFreeStepper(DataParallelStepper(
        model, loss, world,
        lambda parameters: AdamWScheduleFree(
            parameters, lr=values["lr"], betas=(values["beta1"], values["beta2"]),
            weight_decay=values["weight_decay"], warmup_steps=round(values["warmup"] * steps)),
        schedule=lambda step, steps: 1.0), values["refresh"])


backend = contract.Backend(
    name="schedule-free",
    summary="Schedule-Free AdamW at its authors' defaults (DistributedDataParallel)",
    hyperparameters={
        "lr": contract.Hyperparameter(0.0025, "learning rate", above=0),
        "beta1": contract.Hyperparameter(
            0.9, "weight of x in y, in the place of momentum", least=0, below=1),
        "beta2": contract.Hyperparameter(0.999, "decay of the second moment", least=0, below=1),
        "weight_decay": contract.Hyperparameter(0.0, "decoupled weight decay, at y", least=0),
        "refresh": contract.Hyperparameter(
            10, "minibatches that BatchNorm statistics are gathered from before an evaluation",
            least=0),
        "warmup": contract.Hyperparameter(0.0, "share of the budget spent warming up", least=0),
    },
    build=build,
    tuning_free=True,
    traffic=contract.GRADIENT_SUM,
    requires=("schedulefree",),
    install="schedulefree",
    sources=("schedulefree", "bench_apts.optimizers.data_parallel"),
    moves_weights=True,
)
