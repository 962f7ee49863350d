"""Methods of the package ``pytorch_optimizer``, data-parallel: Lion, AdEMAMix, SOAP, Adafactor, ….

They step along the averaged gradient, so every rank computes the same without a further message.

=================== ===============================================================================
Lion                Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675
AdEMAMix            Pagliardini, Ablin and Grangier, arXiv 2409.03137; its slow average and the
                    weight of it grow over a share of the budget, the whole one as published
SOAP                Vyas et al., arXiv 2409.11321; its first step only fills the preconditioner
Adafactor           Shazeer and Stern, arXiv 1804.04235, in the variant with momentum of Zhai et
                    al., arXiv 2106.04560, at a learning rate that is given
D-Adaptation        Defazio and Mishchenko, arXiv 2301.07733: Adam that estimates the distance to
                    a solution, on half a cosine as ``prodigy``
=================== ===============================================================================

Ranges of learning rates span as many orders of magnitude as that of ``adam``. The frozen ones are
AlgoPerf's self-tuning submissions ``self_tuning/lion`` (score 0.278) and ``self_tuning/ademamix``
(0.519) of mlcommons/submissions_algorithms, branch ``a100_scoring``, of June 2026; scores are over
nine workloads, the higher the better. Their dropout and label smoothing belong to the workload
and are left out.
"""

from __future__ import annotations

import math
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
    Uniform,
    World,
)
from bench_apts.optimizers import schedule
from bench_apts.optimizers.adam import HYPERPARAMETERS
from bench_apts.optimizers.frozen import frozen
from bench_apts.optimizers.schedule import WARMUP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

Options = dict[str, Any]


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World, *,
    method: str, options: Callable[[Mapping[str, Any], int], Options],
) -> Stepper:
    """Build a method of the package under DistributedDataParallel.

    Args:
        model: On its device.
        loss: The suite's loss.
        values: All hyperparameters.
        world: This rank's place.
        method: Its class in ``pytorch_optimizer``.
        options: Given the hyperparameters and the steps in the budget, what the class is made
            with besides learning rate and weight decay.
    """
    import pytorch_optimizer

    from bench_apts.optimizers.data_parallel import DataParallelStepper

    steps = math.ceil(world.budget_samples / world.batch_size)
    make = getattr(pytorch_optimizer, method)
    return DataParallelStepper(
        model, loss, world,
        lambda parameters: make(
            parameters, lr=values["lr"], weight_decay=values["weight_decay"],
            **options(values, steps)),
        schedule.find(values), clip=values.get("clip", 0.0))


def _betas(values: Mapping[str, Any], steps: int) -> Options:
    return {"betas": (values["beta1"], values["beta2"])}


def _ademamix(values: Mapping[str, Any], steps: int) -> Options:
    growth = values["growth_steps"] or values["growth"] * steps
    return {"betas": (values["beta1"], values["beta2"], values["beta3"]), "alpha": values["alpha"],
            "weight_decouple": True, "t_alpha_beta3": growth or None}


def _soap(values: Mapping[str, Any], steps: int) -> Options:
    return _betas(values, steps) | {"precondition_frequency": values["every"]}


def _adafactor(values: Mapping[str, Any], steps: int) -> Options:
    import torch

    # Its moment is in bfloat16 and its steps are relative unless one says otherwise.
    return {"betas": (values["beta1"] or None, values["beta2"]), "relative_step": False,
            "scale_parameter": False, "momentum_dtype": torch.float32}


def _d_adapt(values: Mapping[str, Any], steps: int) -> Options:
    return _betas(values, steps) | {"weight_decouple": True, "d0": values["d0"]}


def _decay(meaning: str, default: float) -> Hyperparameter:
    return Hyperparameter(default, meaning, least=0, below=1)


def _backend(
    name: str, summary: str, method: str, module: str,
    options: Callable[[Mapping[str, Any], int], Options], exact: bool = True,
    **knobs: Hyperparameter,
) -> Backend:
    """Make a backend; unless ``exact`` it enlarges rounding, in which N ranks differ from one."""
    return Backend(
        name=name,
        summary=f"{summary} (DistributedDataParallel)",
        hyperparameters={**HYPERPARAMETERS, "warmup": WARMUP, **knobs},
        build=partial(build, method=method, options=options),
        requires=("pytorch_optimizer",),
        install="bench-apts[rivals]",
        rank_invariant=exact,
        traffic=GRADIENT_SUM,
        sources=(f"pytorch_optimizer.optimizer.{module}", "pytorch_optimizer.base.optimizer",
                 "bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule",
                 "bench_apts.optimizers.adam"),
    )


lion = _backend(
    "lion", "Lion with a cosine schedule", "Lion", "lion", _betas,
    # Its authors' is 3 to 10 times smaller than AdamW's.
    lr=Hyperparameter(1e-4, "peak learning rate", LogUniform(1e-5, 1e-2),
                      wide=LogUniform(1e-6, 1e-1), above=0),
    beta1=Hyperparameter(0.9, "weight of the average in the sign", wide=Uniform(0.8, 0.98),
                         least=0, below=1),
    beta2=_decay("decay of the average", 0.99),
)

lion_frozen = frozen(
    lion, "lion-frozen", "Lion, frozen at AlgoPerf's submission of 2026 (DistributedDataParallel)",
    lr=2e-4, beta1=0.95, beta2=0.98, weight_decay=0.5, warmup=0.02)

ademamix = _backend(
    "ademamix", "AdEMAMix with a cosine schedule", "AdEMAMix", "ademamix", _ademamix,
    beta3=_decay("decay of the slow first moment", 0.9999),
    alpha=Hyperparameter(8.0, "weight of the slow first moment", wide=Uniform(1.0, 10.0), least=0),
    growth=Hyperparameter(
        1.0, "share of the budget over which alpha and beta3 grow; 0: they do not", least=0),
    growth_steps=Hyperparameter(0, "steps over which they grow, in the place of growth", least=0),
    clip=Hyperparameter(0.0, "largest norm of the gradient; 0 for no limit", least=0),
)

ademamix_frozen = frozen(
    ademamix, "ademamix-frozen",
    "AdEMAMix, frozen at AlgoPerf's submission of 2026 (DistributedDataParallel)",
    lr=2e-3, beta1=0.8, beta2=0.995, beta3=0.9995, alpha=8.0, weight_decay=0.1, warmup=0.02,
    clip=0.5, growth_steps=500_000)

soap = _backend(
    "soap", "SOAP, Adam in Shampoo's eigenbases, with a cosine schedule", "SOAP", "soap", _soap,
    exact=False,
    lr=replace(HYPERPARAMETERS["lr"], default=3e-3),
    beta1=Hyperparameter(0.95, "decay of the first moment", wide=Uniform(0.8, 0.98), least=0,
                         below=1),
    beta2=_decay("decay of the second moment and of the preconditioner", 0.95),
    every=Hyperparameter(10, "steps between eigenbases", least=1),
)

adafactor = _backend(
    "adafactor", "Adafactor with momentum and a cosine schedule", "AdaFactor", "adafactor",
    _adafactor,
    beta1=Hyperparameter(0.9, "decay of the first moment; 0 does without one",
                         wide=Uniform(0.8, 0.98), least=0, below=1),
    beta2=_decay("largest decay of the second moment", 0.999),
)

d_adapt = frozen(
    _backend(
        "d-adapt", "", "DAdaptAdam", "dadapt", _d_adapt, exact=False,
        d0=Hyperparameter(1e-6, "first estimate of the distance", above=0)),
    "d-adapt", "D-Adaptation of Adam, with a cosine schedule (DistributedDataParallel)", lr=1.0)
