"""Lion (arXiv 2302.06675, algorithm 2), to be changed part by part.

It runs as it is. Call `bench-apts test NAME.py` after each change; then compare:

    bench-apts run --optimizers NAME.py,adam,apts --gpus 1,2

All that a backend may declare: docs/optimizers.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # in a package import it in build(), as `bench-apts list` reads all backends

from bench_apts.contract import (
    GRADIENT_SUM,
    Backend,
    Hyperparameter,
    LogUniform,
    Loss,
    Stepper,
    World,
)
from bench_apts.optimizers.data_parallel import DataParallelStepper

if TYPE_CHECKING:
    from collections.abc import Mapping


class Lion(torch.optim.Optimizer):
    """Your rule. `torch.optim.Optimizer` keeps what is in `self.state`, also in checkpoints."""

    def __init__(self, params: Any, lr: float, beta1: float, beta2: float) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step along the gradients, which are averages over all ranks already."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # it is frozen
                    continue
                moment = self.state[p].setdefault("moment", torch.zeros_like(p))
                direction = torch.lerp(p.grad, moment, group["beta1"]).sign()
                p.sub_(direction, alpha=group["lr"])
                moment.lerp_(p.grad, 1 - group["beta2"])


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build what trains `model`, on each rank.

    DataParallelStepper averages the gradients over the ranks (DistributedDataParallel), calls
    `step()`, and lets the learning rate fall along half a cosine. A method whose ranks exchange
    anything else has a stepper of its own: docs/optimizers.md, "The stepper".
    """
    return DataParallelStepper(model, loss, world, lambda parameters: Lion(
        parameters, values["lr"], values["beta1"], values["beta2"]))


backend = Backend(
    name="NAME",  # what tables and reports call it
    summary="Lion with a cosine schedule (DistributedDataParallel)",
    hyperparameters={  # default, meaning, and what tuning searches, if it does
        "lr": Hyperparameter(1e-3, "peak learning rate", LogUniform(1e-5, 1e-2)),
        "beta1": Hyperparameter(0.9, "weight of the moment in a step", least=0, below=1),
        "beta2": Hyperparameter(0.99, "decay of the moment", least=0, below=1),
    },
    build=build,
    rank_invariant=True,  # N ranks take the steps of one on the same global minibatch
    traffic=GRADIENT_SUM,  # the bytes that it must send; leave it out if you do not know them
    # Finished trials are run again when these change, like this file.
    sources=("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule"),
)
