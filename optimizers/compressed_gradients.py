"""Data-parallel methods that send less than the gradient: 16 bits, low rank, or a few frequencies.

``ddp-fp16``, ``ddp-quantized`` and ``ddp-powersgd`` are ``adam`` with a communication hook; at one
rank, where nothing is sent, they are ``adam`` itself. PowerSGD: Vogels et al., arXiv 1905.13727,
of the ranks 1, 2 and 4 there, from the first step on; torch's documentation advises to begin after
a tenth of all steps (``start=0.1``).

``demo`` is DeMo, Peng et al., arXiv 2411.19870, from ``pytorch_optimizer``, at its authors'
values: each rank keeps its momentum and sends those frequencies of it that are largest in blocks
of 64 by 64; all step by the sign of their mean. Its code takes matrices at most: kernels of
convolutions become matrices of their first dimension. It sends indices as integers of 64 bits, 12
bytes for each frequency.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    Backend,
    Choice,
    Hyperparameter,
    LogUniform,
    Loss,
    Stepper,
    TrafficFormula,
    World,
)
from bench_apts.optimizers import adam, quantized_layout, schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World, *, hook: str
) -> Stepper:
    """Build AdamW under DistributedDataParallel with a communication hook."""
    from bench_apts.optimizers import gradient_hooks
    from bench_apts.optimizers.data_parallel import DataParallelStepper

    options = {name: values[name] for name in ("columns", "bits", "block", "feedback")
               if name in values}
    if "start" in values:
        options["start"] = round(values["start"] * world.budget_samples / world.batch_size)
    return DataParallelStepper(
        model, loss, world, lambda parameters: adam.adamw(parameters, values),
        schedule.find(values), hook=gradient_hooks.find(hook, **options))


_SOURCES = ("bench_apts.optimizers.quantized_mean", "bench_apts.optimizers.quantized_layout",
            "bench_apts.optimizers.data_parallel", "bench_apts.optimizers.gradient_hooks",
            "bench_apts.optimizers.adam", "bench_apts.optimizers.schedule",
            "bench_apts.optimizers.fused_kernels")

fp16 = Backend(
    name="ddp-fp16",
    summary="AdamW as adam, gradients all-reduced as float16 (DistributedDataParallel)",
    hyperparameters=adam.HYPERPARAMETERS,
    build=partial(build, hook="fp16"),
    sources=_SOURCES,
    traffic=TrafficFormula("f·P", "step", lambda n, _: {"all_reduce": 2 * n}),
)

quantized = Backend(
    name="ddp-quantized",
    summary="AdamW as adam, gradients averaged in 8 bits or fewer (DistributedDataParallel)",
    hyperparameters=adam.HYPERPARAMETERS | quantized_layout.message(8, feedback=False),
    build=partial(build, hook="quantized"),
    sources=_SOURCES,
    traffic=TrafficFormula(
        "f·(P + P/64)/2", "step", lambda n, ranks: quantized_layout.Layout(
            n, ranks, 8, 256).payloads, note="pads chunks to 32 numbers",
        where={"bits": 8, "block": 256}),
)

powersgd = Backend(
    name="ddp-powersgd",
    summary="AdamW as adam on low-rank gradients, PowerSGD (DistributedDataParallel)",
    hyperparameters=adam.HYPERPARAMETERS | {
        "columns": Hyperparameter(2, "rank of the factors P and Q that are sent of a gradient",
                               wide=Choice((1, 2, 4)), least=1),
        "start": Hyperparameter(0.0, "share of the budget with whole gradients first", least=0),
    },
    build=partial(build, hook="powersgd"),
    sources=_SOURCES,
    saves_communication=True,
)


def build_demo(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build the package's ``DeMo``, which exchanges what it needs by itself."""
    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.demo_matrices import MatrixDeMo

    return DataParallelStepper(model, loss, world, lambda parameters: MatrixDeMo(
        parameters, lr=values["lr"], compression_decay=values["decay"],
        compression_top_k=values["kept"], compression_chunk=values["chunk"],
        weight_decay=values["weight_decay"]), local=True)


demo = Backend(
    name="demo",
    summary="DeMo: ranks send the largest frequencies of their momentum (pytorch_optimizer)",
    hyperparameters={
        "lr": Hyperparameter(1e-3, "peak learning rate: each weight moves by as much a step",
                             LogUniform(3e-5, 3e-2), wide=LogUniform(1e-5, 1e-1), above=0),
        "decay": Hyperparameter(0.999, "decay of what has not been sent", least=0, below=1),
        "kept": Hyperparameter(32, "frequencies sent of a block", wide=Choice((8, 16, 32, 64)),
                               least=1),
        "chunk": Hyperparameter(64, "most rows and columns of a block", least=1),
        "weight_decay": Hyperparameter(0.0, "decoupled weight decay",
                                       wide=LogUniform(1e-6, 1e-1), least=0),
    },
    build=build_demo,
    requires=("pytorch_optimizer", "einops"),
    install="bench-apts[rivals]",
    sources=("pytorch_optimizer.optimizer.demo", "bench_apts.optimizers.demo_matrices",
             "bench_apts.optimizers.data_parallel", "bench_apts.optimizers.schedule"),
    saves_communication=True,
)
