"""DoG and MoMo-Adam: the length of a step from distances, gradients and losses. Data-parallel.

* ``dog``: Ivgi, Hinder and Carmon, arXiv 2302.12022, with the settings that its authors recommend:
  a first step of 1e-6 (1 + ‖x₀‖), and evaluation at the average with γ = 8.
* ``momo``: Schaipp et al., arXiv 2305.07583, MoMo-Adam at its authors' default, a learning rate of
  0.01 that stays, and a lower bound of 0. It needs the loss averaged over the ranks, one more
  all-reduce of one float, as it decides by it: with losses of their own ranks drift apart. Losses
  that may be negative need another bound, ``momo[lower_bound=-5]``: it stands still below it.

The rules are in ``update_rules.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    GRADIENT_SUM,
    Backend,
    Hyperparameter,
    Loss,
    Stepper,
    TrafficFormula,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_SOURCES = ("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.update_rules")


def _constant(step: int, steps: int) -> float:
    return 1.0


def build_dog(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build DoG under DistributedDataParallel, evaluated at its average."""
    from bench_apts.optimizers.averaging import AveragingStepper
    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.update_rules import DoG

    return AveragingStepper(DataParallelStepper(
        model, loss, world, lambda parameters: DoG(
            parameters, lr=values["lr"], first=values["first"], gamma=values["gamma"]),
        _constant), values["refresh"])


def build_momo(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build MoMo-Adam under DistributedDataParallel."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.update_rules import MomoAdam

    return DataParallelStepper(
        model, loss, world, lambda parameters: MomoAdam(
            parameters, lr=values["lr"], betas=(values["beta1"], values["beta2"]),
            weight_decay=values["weight_decay"], lower_bound=values["lower_bound"]),
        _constant)


dog = Backend(
    name="dog",
    summary="DoG, SGD by distance over gradients, averaged (DistributedDataParallel)",
    hyperparameters={
        "lr": Hyperparameter(1.0, "factor on every step", above=0),
        "first": Hyperparameter(1e-6, "first step over 1 + the norm of the weights", above=0),
        "gamma": Hyperparameter(8.0, "how much the average forgets", least=0),
        "refresh": Hyperparameter(
            10, "minibatches that BatchNorm statistics are gathered from before an evaluation",
            least=0),
    },
    build=build_dog,
    tuning_free=True,
    rank_invariant=True,
    traffic=GRADIENT_SUM,
    sources=(*_SOURCES, "bench_apts.optimizers.averaging"),
    moves_weights=True,
)

momo = Backend(
    name="momo",
    summary="MoMo-Adam, Adam limited by a model of the loss (DistributedDataParallel)",
    hyperparameters={
        "lr": Hyperparameter(0.01, "largest learning rate", above=0),
        "beta1": Hyperparameter(0.9, "decay of the first moment", least=0, below=1),
        "beta2": Hyperparameter(0.999, "decay of the second moment", least=0, below=1),
        "weight_decay": Hyperparameter(0.0, "decoupled weight decay", least=0),
        "lower_bound": Hyperparameter(0.0, "what no loss can be below"),
    },
    build=build_momo,
    tuning_free=True,
    rank_invariant=True,
    traffic=TrafficFormula("2f·P", "step", lambda n, _: {"all_reduce": 4 * n + 4}),
    sources=_SOURCES,
)
