"""Schedule-Free AdamW from its authors' package, data-parallel.

Defazio et al., The Road Less Scheduled, arXiv 2405.15682; package ``schedulefree``. Gradients are
taken at y, the average x of the iterates is what is evaluated, and no learning rate decays.

Besides z only one of x and y is held: the package computes it from the other in place. The pair of
switches rounds, so how often the model is evaluated changes the trajectory in the last digits.
BatchNorm statistics of x are gathered before each evaluation, as the authors advise. Theirs are a
running average over 50 minibatches; the plain average that is taken here needs fewer.

``schedule-free`` has the package's defaults, without a warm-up; ``schedule-free-warmup`` warms up
for 5 % of the budget, as the authors recommend a warm-up without saying how long.
``schedule-free-algoperf`` is AlgoPerf's self-tuning submission
``self_tuning/schedule_free_adamw_v2`` (mlcommons/submissions_algorithms, branch ``a100_scoring``,
June 2026; score 0.568), whose warm-up is 0.02 x 0.75 of the steps. Its dropout and label smoothing
belong to the workload and are left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench_apts import contract
from bench_apts.optimizers.frozen import frozen
from bench_apts.optimizers.schedule import WARMUP

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def build(
    model: torch.nn.Module, loss: contract.Loss, values: Mapping[str, Any], world: contract.World
) -> contract.Stepper:
    """Build the package's ``AdamWScheduleFree`` under DistributedDataParallel."""
    from schedulefree import AdamWScheduleFree

    from bench_apts.optimizers.averaging import AveragingStepper
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    steps = math.ceil(world.budget_samples / world.batch_size)
    return AveragingStepper(DataParallelStepper(
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
        "warmup": WARMUP,
    },
    build=build,
    tuning_free=True,
    rank_invariant=True,
    traffic=contract.GRADIENT_SUM,
    requires=("schedulefree",),
    install="schedulefree",
    sources=("schedulefree", "bench_apts.optimizers.averaging",
             "bench_apts.optimizers.data_parallel"),
    moves_weights=True,
)

warm = frozen(
    backend, "schedule-free-warmup",
    "Schedule-Free AdamW with a warm-up of 5 % of the budget (DistributedDataParallel)",
    warmup=0.05)

algoperf = frozen(
    backend, "schedule-free-algoperf",
    "Schedule-Free AdamW, frozen at AlgoPerf's submission of 2026 (DistributedDataParallel)",
    beta2=0.9955159689799007, weight_decay=0.08121616522670176, warmup=0.015)
