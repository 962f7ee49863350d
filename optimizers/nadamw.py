"""NAdamW as AlgoPerf calibrated it, frozen or in a list of five, and tuned like ``adam``.

``nadamw`` and ``nadamw-list`` have the numbers of the prize qualification baselines of AlgoPerf
v0.5's self-tuning and external tuning rulesets (mlcommons/algorithmic-efficiency,
``prize_qualification_baselines``; the frozen one scored 0.451 in the unreleased scores of June
2026). ``nadamw-2026`` is the self-tuning submission ``self_tuning/nadamw`` of 2026-04-08
(mlcommons/submissions_algorithms, branch ``a100_scoring``; score 0.384). All were chosen on
AlgoPerf's workloads and never on a suite of ours. ``nadamw-tuned`` draws the learning rate as
``adam`` does; its other defaults are those of ``nadamw``. Their dropout and label smoothing belong
to models and losses, which a suite fixes for every optimizer, and are left out. The first step of
AlgoPerf's warm-up has length 0; here no step is wasted, see ``schedule.cosine``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    GRADIENT_SUM,
    Backend,
    Hyperparameter,
    LogUniform,
    Loss,
    Stepper,
    World,
)
from bench_apts.optimizers.adam import HYPERPARAMETERS
from bench_apts.optimizers.frozen import frozen
from bench_apts.optimizers.schedule import WARMUP, cosine

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def _configuration(
    lr: float, one_minus_beta1: float, beta2: float, weight_decay: float, warmup: float
) -> dict[str, float]:
    return {"lr": lr, "beta1": 1 - one_minus_beta1, "beta2": beta2,
            "weight_decay": weight_decay, "warmup": warmup}


FROZEN = _configuration(
    0.0017486387539278373, 0.06733926164, 0.9955159689799007, 0.08121616522670176, 0.02)
"""The self-tuning baseline's only configuration."""

_FIRST = _configuration(
    0.001308209823469072, 0.02686663061, 0.9981232922116359, 0.16375311233774334, 0.1)

LIST = (
    _FIRST,
    _configuration(
        0.0008445074561975979, 0.11042418465, 0.9978504782314613, 0.08135402759553023, 0.05),
    _FIRST,  # again, as published
    _configuration(
        0.004958460849689891, 0.13625575743, 0.6291854735396584, 0.1147386261512052, 0.02),
    FROZEN,
)
"""The external tuning baseline's five, in their order."""


LATEST = _configuration(
    0.00190834618600756, 0.09090652249, 0.998898321921855, 0.08121616522670176, 0.1)
"""The self-tuning submission of 2026."""


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build AlgoPerf's NAdamW under DistributedDataParallel."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.update_rules import NAdamW

    return DataParallelStepper(
        model, loss, world,
        lambda parameters: NAdamW(
            parameters, lr=values["lr"], betas=(values["beta1"], values["beta2"]),
            weight_decay=values["weight_decay"]),
        partial(cosine, warmup=values["warmup"]))


def _hyperparameters(defaults: Mapping[str, float]) -> dict[str, Hyperparameter]:
    return {
        "lr": Hyperparameter(defaults["lr"], "peak learning rate", above=0),
        "beta1": Hyperparameter(defaults["beta1"], "decay of the first moment", least=0, below=1),
        "beta2": Hyperparameter(defaults["beta2"], "decay of the second moment", least=0, below=1),
        "weight_decay": Hyperparameter(
            defaults["weight_decay"], "decoupled weight decay", least=0),
        "warmup": replace(WARMUP, default=defaults["warmup"]),
    }


_SOURCES = ("bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule",
            "bench_apts.optimizers.update_rules")

backend = Backend(
    name="nadamw",
    summary="NAdamW, frozen at AlgoPerf v0.5's self-tuning baseline (DistributedDataParallel)",
    hyperparameters=_hyperparameters(FROZEN),
    build=build,
    tuning_free=True,
    sources=_SOURCES,
    rank_invariant=True,
    traffic=GRADIENT_SUM,
)

ordered = Backend(
    name="nadamw-list",
    summary="NAdamW, AlgoPerf's five configurations in their order (DistributedDataParallel)",
    hyperparameters=_hyperparameters(LIST[0]),
    build=build,
    ordered=LIST,
    sources=_SOURCES,
    rank_invariant=True,
    traffic=GRADIENT_SUM,
)

frozen_2026 = frozen(
    backend, "nadamw-2026",
    "NAdamW, frozen at AlgoPerf's submission of 2026 (DistributedDataParallel)", **LATEST)

tuned = replace(
    backend,
    name="nadamw-tuned",
    summary="NAdamW with warm-up and a cosine schedule, tuned (DistributedDataParallel)",
    hyperparameters={
        **backend.hyperparameters,
        "lr": replace(HYPERPARAMETERS["lr"], default=FROZEN["lr"]),
        "beta1": replace(HYPERPARAMETERS["beta1"], default=FROZEN["beta1"]),
        "weight_decay": replace(
            backend.hyperparameters["weight_decay"], wide=LogUniform(1e-4, 1.0)),
    },
    tuning_free=False,
    sources=(*_SOURCES, "bench_apts.optimizers.adam"),
)
