"""Prodigy from its authors' package, data-parallel.

Mishchenko and Defazio, arXiv 2306.06101; package ``prodigyopt``. The learning rate stays at 1 and
multiplies an estimate of the distance to a solution; the authors recommend half a cosine over it.
The estimate comes from the averaged gradient, so every rank finds the same without a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import GRADIENT_SUM, Backend, Hyperparameter, Loss, Stepper, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build the package's ``Prodigy`` under DistributedDataParallel."""
    from prodigyopt import Prodigy

    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(
        model, loss, world,
        lambda parameters: Prodigy(
            parameters, lr=values["lr"], betas=(values["beta1"], values["beta2"]),
            weight_decay=values["weight_decay"], d0=values["d0"], d_coef=values["d_coef"]))


backend = Backend(
    name="prodigy",
    summary="Prodigy at its authors' defaults with a cosine schedule (DistributedDataParallel)",
    hyperparameters={
        "lr": Hyperparameter(1.0, "factor on the estimated learning rate, at its peak", above=0),
        "beta1": Hyperparameter(0.9, "decay of the first moment", least=0, below=1),
        "beta2": Hyperparameter(0.999, "decay of the second moment", least=0, below=1),
        "weight_decay": Hyperparameter(0.0, "decoupled weight decay", least=0),
        "d0": Hyperparameter(1e-6, "first estimate of the distance", above=0),
        "d_coef": Hyperparameter(1.0, "factor on every estimate of the distance"),
    },
    build=build,
    tuning_free=True,
    rank_invariant=True,
    traffic=GRADIENT_SUM,
    requires=("prodigyopt",),
    install="prodigyopt",
    sources=("prodigyopt", "bench_apts.optimizers.data_parallel",
             "bench_apts.optimizers.schedule"),
)
