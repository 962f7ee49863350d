"""Methods whose ranks take steps alone and meet once in a while; ``local_rounds`` is what they do.

Tuning never chooses the period: it sees accuracy and samples but no bytes, and would take the
shortest.
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
    TrafficFormula,
    Uniform,
    World,
)
from bench_apts.optimizers import adam, muon, quantized_layout, sgd
from bench_apts.optimizers.frozen import frozen
from bench_apts.optimizers.schedule import WARMUP
from bench_apts.optimizers.trust_region import LOCAL_STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from bench_apts.optimizers.local_rounds import Inner


def _sgd(
    model: torch.nn.Module, vector: torch.nn.Parameter, values: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    return [sgd.optimizer([vector], values)]


def _muon(
    model: torch.nn.Module, vector: torch.nn.Parameter, values: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    return muon.optimizers(model, model.named_parameters(), values)


def _adamw(
    model: torch.nn.Module, vector: torch.nn.Parameter, values: Mapping[str, Any]
) -> list[torch.optim.Optimizer]:
    return [adam.adamw([vector], values)]


def _build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World,
    inner: Inner, fixed: Mapping[str, bool],
) -> Stepper:
    from bench_apts.optimizers.local_rounds import LocalRoundsStepper

    return LocalRoundsStepper(model, loss, {**values, **fixed}, world, inner)


def _backend(
    name: str, summary: str, inner: Inner, knobs: Mapping[str, Hyperparameter],
    traffic: TrafficFormula = LOCAL_STEPS, *, requires: tuple[str, ...] = (), install: str = "",
    **fixed: bool,
) -> Backend:
    """Make a backend; ``fixed`` are fields of ``Rounds`` that its users cannot choose."""
    return Backend(
        name=name, summary=summary, hyperparameters=knobs,
        build=partial(_build, inner=inner, fixed=fixed), traffic=traffic, requires=requires,
        install=install, moves_weights=fixed.get("slow", False),
        rank_invariant=fixed.get("synchronous", False),
        sources=("bench_apts.optimizers.local_rounds", "bench_apts.optimizers.apts.flat_problem",
                 "bench_apts.optimizers.apts.views", "bench_apts.optimizers.apts.rank_agreement",
                 "bench_apts.optimizers.quantized_mean", "bench_apts.optimizers.fused_kernels",
                 "bench_apts.optimizers.quantized_layout", "bench_apts.optimizers.schedule",
                 *(muon.backend.sources if inner is _muon else
                   ("bench_apts.optimizers.adam", "bench_apts.optimizers.sgd"))))


def _period(steps: int, meaning: str = "inner steps of a rank between two averages"
            ) -> dict[str, Hyperparameter]:
    return {"period": Hyperparameter(steps, meaning, least=1)}


def _outer(lr: float, momentum: float) -> dict[str, Hyperparameter]:
    return {
        "outer_lr": Hyperparameter(lr, "outer learning rate; 1 without outer_momentum averages",
                                   Uniform(0.2, 1.0), wide=LogUniform(0.1, 2.0), above=0),
        "outer_momentum": Hyperparameter(momentum, "outer Nesterov momentum", Uniform(0.0, 0.95),
                                         wide=Uniform(0.0, 0.99), least=0, below=1),
    }


_SGD = dict(sgd.backend.hyperparameters)
_ADAMW = adam.HYPERPARAMETERS | {"warmup": WARMUP}
_MESSAGE = quantized_layout.message(32, feedback=True)
_WHOLE = replace(LOCAL_STEPS, where={"bits": 32})

local_sgd = _backend(
    "local-sgd", "Local SGD: ranks take steps of SGD alone, then average their weights",
    _sgd, _SGD | _period(16))

post_local_sgd = _backend(
    "post-local-sgd", "post-local SGD (arXiv 1808.07217): data-parallel SGD, then Local SGD",
    _sgd, _SGD | _period(16) | {
        # Theirs begins local steps where the learning rate falls first, at half of the epochs.
        "switch": Hyperparameter(0.5, "share of the budget before local steps begin", least=0)})

# η and μ are the paper's; its H is 500, in 88,000 steps: budgets here are of some 1,000.
diloco = _backend(
    "diloco", "DiLoCo (arXiv 2311.08105): local AdamW, outer steps with Nesterov momentum",
    _adamw, _ADAMW | _period(32) | _outer(0.7, 0.9) | _MESSAGE, _WHOLE)

# H is the paper's, which tunes η and μ.
muloco = _backend(
    "muloco", "MuLoCo (arXiv 2505.23725): DiLoCo with Muon for hidden matrices inside",
    _muon, dict(muon.backend.hyperparameters) | _period(30) | _outer(0.7, 0.9) | _MESSAGE, _WHOLE,
    requires=muon.backend.requires, install=muon.backend.install)

# The paper's fragments are groups of layers; these are equal parts of the flat weights, in their
# order. A message is awaited, not overlapped with further steps (the paper's τ = 0, α = 0).
streaming_diloco = _backend(
    "streaming-diloco",
    "Streaming DiLoCo (arXiv 2501.18512): DiLoCo whose fragments of the weights meet in turn",
    _adamw, _ADAMW | _period(32) | _outer(0.7, 0.9) | {
        "fragments": Hyperparameter(4, "parts of the weights, each averaged once in a period",
                                    least=1)} | _MESSAGE,
    TrafficFormula("2f·P/4", "round", lambda n, _: {"all_reduce": n},
                   note="sends a fragment, one of 4, in each all-reduce, and all at the end",
                   where={"fragments": 4, "bits": 32}),
    slow=True)

# 3 and 6 rounds are the paper's; β₂ is smaller there than 0.999, which its half-lives follow.
des_loc = _backend(
    "des-loc", "DES-LOC (arXiv 2505.22549): local AdamW, moments averaged at periods of their own",
    _adamw, _ADAMW | _period(32) | {
        "first_moment": Hyperparameter(
            3, "rounds between averages of the first moments; 0 for never", least=0),
        "second_moment": Hyperparameter(
            6, "rounds between averages of the second moments; 0 for never", least=0)},
    replace(LOCAL_STEPS, note="averages moments in all-reduces of their own, of P too",
            where={"first_moment": 3, "second_moment": 6}))

_OUTER_PERIOD = _period(28, "steps between two outer steps")

# H, η and μ of its authors' entry in modded-nanogpt (pull request 128).
snoo = _backend(
    "snoo", "SNOO (arXiv 2510.15830): data-parallel AdamW, outer steps with Nesterov momentum",
    _adamw, _ADAMW | _OUTER_PERIOD | _outer(0.68, 0.37), GRADIENT_SUM,
    synchronous=True, slow=True)

# AlgoPerf's self-tuning submission single_worker_dilocov2 (2026), which has no warm-up.
one_worker = frozen(
    snoo, "diloco-one-worker", "SNOO, frozen at AlgoPerf's one-worker DiLoCo v2 of 2026",
    lr=0.000955, beta1=0.99, beta2=0.995, weight_decay=0.2424, period=75, outer_lr=0.3006,
    outer_momentum=0.7675)
