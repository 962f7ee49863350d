"""SGD with Nesterov momentum, data-parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts import contract
from bench_apts.optimizers import fused_kernels, schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch


def optimizer(parameters: Iterable[torch.nn.Parameter], values: Mapping[str, Any]
              ) -> torch.optim.Optimizer:
    """Make the SGD that all backends of SGD share."""
    import torch

    momentum, tensors = values["momentum"], list(parameters)
    return torch.optim.SGD(tensors, lr=values["lr"], momentum=momentum, nesterov=momentum > 0,
                           weight_decay=values["weight_decay"], fused=fused_kernels.take(tensors))


def build(
    model: torch.nn.Module, loss: contract.Loss, values: Mapping[str, Any], world: contract.World
) -> contract.Stepper:
    """Build ``torch.optim.SGD`` under DistributedDataParallel."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(
        model, loss, world, lambda parameters: optimizer(parameters, values),
        schedule.find(values))


backend = contract.Backend(
    name="sgd",
    summary="SGD with Nesterov momentum and a cosine schedule (DistributedDataParallel)",
    hyperparameters={
        "lr": contract.Hyperparameter(0.05, "peak learning rate", contract.LogUniform(1e-3, 1.0),
                                      wide=contract.LogUniform(1e-4, 10.0), above=0),
        "momentum": contract.Hyperparameter(0.9, "Nesterov momentum; 0 switches it off",
                                            wide=contract.Uniform(0.0, 0.99), least=0),
        "weight_decay": contract.Hyperparameter(0.0, "L2 penalty", least=0),
        **schedule.KNOBS,
    },
    build=build,
    rank_invariant=True,
    traffic=contract.GRADIENT_SUM,
    sources=("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule",
             "bench_apts.optimizers.fused_kernels"),
)
