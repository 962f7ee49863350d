"""AdamW, data-parallel; its hyperparameters are those of the DeepSpeed backends too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts import contract
from bench_apts.optimizers import fused_kernels, schedule
from bench_apts.optimizers.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

HYPERPARAMETERS = {
    "lr": contract.Hyperparameter(1e-3, "peak learning rate", contract.LogUniform(1e-4, 1e-1),
                                  wide=contract.LogUniform(1e-5, 1.0), above=0),
    "beta1": contract.Hyperparameter(0.9, "decay of the first moment",
                                     wide=contract.Uniform(0.8, 0.98), least=0, below=1),
    "beta2": contract.Hyperparameter(0.999, "decay of the second moment", least=0, below=1),
    "weight_decay": contract.Hyperparameter(0.0, "decoupled weight decay",
                                            wide=contract.LogUniform(1e-6, 1e-1), least=0),
    **schedule.KNOBS,
}


def adamw(parameters: Iterable[torch.nn.Parameter], values: Mapping[str, Any]
          ) -> torch.optim.Optimizer:
    """Make the AdamW that all Adam-like backends share."""
    import torch

    tensors = list(parameters)
    return torch.optim.AdamW(
        tensors, lr=values["lr"], betas=(values["beta1"], values["beta2"]),
        weight_decay=values["weight_decay"], fused=fused_kernels.take(tensors))


def build(
    model: torch.nn.Module, loss: contract.Loss, values: Mapping[str, Any], world: contract.World
) -> contract.Stepper:
    """Build ``torch.optim.AdamW`` under DistributedDataParallel."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(
        model, loss, world, lambda parameters: adamw(parameters, values), schedule.find(values))


backend = contract.Backend(
    name="adam",
    summary="AdamW with a cosine schedule (DistributedDataParallel)",
    hyperparameters=HYPERPARAMETERS,
    build=build,
    rank_invariant=True,
    traffic=contract.GRADIENT_SUM,
    sources=("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule",
             "bench_apts.optimizers.fused_kernels"),
)

default = frozen(
    backend, "adam-default",
    "AdamW as adam, at its default learning rate: what no tuning at all gives")
