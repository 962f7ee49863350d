"""A backend in one file: NAdam (Dozat, 2016) under DistributedDataParallel.

``bench-apts run --optimizers my_optimizer.py,adam,apts`` compares it with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Hyperparameter, LogUniform, Loss, Stepper, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Any ``torch.optim`` optimizer, your own too, goes where ``NAdam`` stands."""
    import torch

    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(model, loss, world, lambda parameters: torch.optim.NAdam(
        parameters, lr=values["lr"], betas=(values["beta1"], 0.999)))


backend = Backend(
    name="my-nadam",
    summary="NAdam with a cosine schedule (DistributedDataParallel)",
    hyperparameters={
        "lr": Hyperparameter(2e-3, "peak learning rate", LogUniform(1e-4, 1e-1)),
        "beta1": Hyperparameter(0.9, "decay of the first moment"),
    },
    build=build,
    sources=("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule"),
)
