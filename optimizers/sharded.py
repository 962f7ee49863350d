"""AdamW divided over the ranks by PyTorch itself: ZeroRedundancyOptimizer and FSDP2.

They take the steps of ``adam``, up to rounding; memory and bytes are what differs. At one rank
``zero-redundancy`` is ``adam`` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Loss, Stepper, TrafficFormula, World
from bench_apts.optimizers import fused_kernels, schedule
from bench_apts.optimizers.adam import HYPERPARAMETERS, adamw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch


def build_zero_redundancy(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build ``ZeroRedundancyOptimizer`` around AdamW under DistributedDataParallel."""
    import torch

    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.optimizers.sharded_steppers import OwnShard

    def make(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if world.size == 1:
            return adamw(parameters, values)
        return OwnShard(
            [p for p in parameters if p.requires_grad], torch.optim.AdamW, lr=values["lr"],
            betas=(values["beta1"], values["beta2"]), weight_decay=values["weight_decay"],
            fused=fused_kernels.take(list(model.parameters())))

    return DataParallelStepper(model, loss, world, make, schedule.find(values))


def build_fully_sharded(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build AdamW under FSDP2."""
    from bench_apts.optimizers.sharded_steppers import FullyShardedStepper

    return FullyShardedStepper(model, loss, values, world)


_SOURCES = ("bench_apts.optimizers.sharded_steppers", "bench_apts.optimizers.adam",
            "bench_apts.optimizers.schedule", "bench_apts.optimizers.fused_kernels")

zero_redundancy = Backend(
    name="zero-redundancy",
    summary="AdamW, optimizer state divided over the ranks (torch's ZeroRedundancyOptimizer)",
    hyperparameters=HYPERPARAMETERS,
    build=build_zero_redundancy,
    follows="adam",
    rank_invariant=True,
    sources=(*_SOURCES, "bench_apts.optimizers.data_parallel"),
    traffic=TrafficFormula(
        "3f·P", "step", lambda n, _: {"all_reduce": 4 * n, "broadcast": 4 * n}),
)

fsdp2 = Backend(
    name="fsdp2",
    summary="AdamW, state, gradients and parameters divided over the ranks (torch's FSDP2)",
    hyperparameters=HYPERPARAMETERS,
    build=build_fully_sharded,
    follows="adam",
    rank_invariant=True,
    sources=_SOURCES,
    traffic=TrafficFormula(
        "2f·P", "step", lambda n, _: {"all_gather": 4 * n, "reduce_scatter": 4 * n},
        note="pads the rows of each tensor to a multiple of N"),
)
