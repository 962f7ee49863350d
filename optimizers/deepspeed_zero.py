"""DeepSpeed ZeRO stages 1, 2 and 3 around the same AdamW as the ``adam`` backend.

ZeRO partitions optimizer state (1), gradients (2) and parameters (3) over the ranks:
Rajbhandari et al., arXiv 1910.02054. It changes memory and bytes, not the trajectory.

ZeRO-Offload (Ren et al., arXiv 2101.06840) is stage 2 whose optimizer state and steps are the
CPU's; on CPUs it does what stage 2 does. ZeRO++ (Wang et al., arXiv 2306.10209) is stage 3 that
gathers weights in 8 bits and sums gradients in 4, which does change the trajectory.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Loss, TrafficFormula, World
from bench_apts.optimizers.adam import HYPERPARAMETERS, adamw
from bench_apts.optimizers.deepspeed_engine import EngineStepper

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class ZeroStepper(EngineStepper):
    """An engine that divides the state of an AdamW, gradients and parameters over the ranks."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World,
        stage: int, options: Mapping[str, Any] = {},
    ) -> None:
        import torch

        self.optimizer = adamw(model.parameters(), values)
        linear = torch.nn.functional.linear
        super().__init__(model, loss, values, world, {
            # Its default, 5e8 numbers, is allocated on a GPU whatever the model's size.
            "zero_optimization": {
                "stage": stage,
                "reduce_bucket_size": sum(p.numel() for p in model.parameters()), **options},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # where state is offloaded, too
        }, self.optimizer)
        # ZeRO-3 leaves its own in place of torch's, for all that runs in this process.
        self._linear, torch.nn.functional.linear = torch.nn.functional.linear, linear

    def forward(self, inputs: Any) -> Any:
        """Return the model's output; linear layers keep no gathered weights until backward."""
        from torch.nn import functional

        before, functional.linear = functional.linear, self._linear
        try:
            return super().forward(inputs)
        finally:
            functional.linear = before

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the full weights, the buffers and this rank's optimizer state."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.engine.module.parameters())):
            weights = copy.deepcopy(dict(self.engine.module.named_parameters()))
        self._gather_small()
        return {
            "weights": {name: weight.data for name, weight in weights.items()},
            "buffers": {name: b.clone() for name, b in self.engine.module.named_buffers()},
            "moments": [copy.deepcopy(self.optimizer.state.get(p, {})) for p in self._masters()],
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        import deepspeed
        import torch

        parameters = list(self.engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0), torch.no_grad():
            for name, parameter in self.engine.module.named_parameters():
                parameter.copy_(state["weights"][name])
            for name, buffer in self.engine.module.named_buffers():
                buffer.copy_(state["buffers"][name])
        self.engine.optimizer.refresh_fp32_params()
        self._gather_small()
        self.optimizer.state.clear()
        for master, moments in zip(self._masters(), state["moments"], strict=True):
            if moments:
                self.optimizer.state[master] = copy.deepcopy(moments)
        self.taken = state["taken"]

    def _gather_small(self) -> None:
        """Gather what ZeRO-3 keeps whole between steps, as it does itself at a step's end."""
        # Otherwise the next step would, and send more than the others.
        small = getattr(self.engine.optimizer, "persistent_parameters", [])
        if small:
            small[0].all_gather(small)

    def _masters(self) -> list[torch.Tensor]:
        """Return this rank's flat float32 partitions, which the wrapped AdamW updates."""
        zero = self.engine.optimizer
        stage12 = getattr(zero, "single_partition_of_fp32_groups", None)
        return list(stage12 if stage12 is not None else zero.fp32_partitioned_groups_flat)


def _partitioned(parameters: int, ranks: int) -> dict[str, int]:
    """Sum the gradient and a flag of 4 bytes; gather parameters, padded to a multiple of 2N."""
    padded = 2 * ranks * math.ceil(parameters / (2 * ranks))
    return {"all_reduce": 4 * parameters + 4, "all_gather": 4 * padded}


_STAGES_1_2 = TrafficFormula("3f·P", "step", _partitioned)
_STAGE_3 = TrafficFormula(
    "2f·P", "step", lambda n, _: {"all_reduce": 8, "all_gather": 4 * n, "reduce_scatter": 4 * n},
    note="pads each tensor to a multiple of N")
"""Parameters stay gathered from step to step; 3f·P otherwise."""


def _backend(stage: int, partitioned: str, **options: Any) -> Backend:
    return Backend(
        name=f"zero{stage}",
        summary=f"AdamW, {partitioned} partitioned over the ranks (DeepSpeed ZeRO-{stage})",
        hyperparameters=HYPERPARAMETERS,
        build=partial(ZeroStepper, stage=stage, options=options),
        requires=("deepspeed",),
        install="deepspeed",
        follows="adam",
        rank_invariant=True,
        sources=("bench_apts.optimizers.deepspeed_engine", "bench_apts.optimizers.adam",
                 "bench_apts.optimizers.schedule", "bench_apts.optimizers.fused_kernels"),
        traffic=_STAGE_3 if stage == 3 else _STAGES_1_2,
    )


zero1 = _backend(1, "optimizer state")
zero2 = _backend(2, "optimizer state and gradients")
zero3 = _backend(3, "optimizer state, gradients and parameters")

offload = replace(
    _backend(2, "", offload_optimizer={"device": "cpu"}),
    name="zero-offload",
    summary="AdamW as zero2, its state and steps on the CPU (DeepSpeed ZeRO-Offload)")

plus_plus = replace(
    _backend(3, "", zero_quantized_weights=True, zero_quantized_gradients=True),
    name="zeropp",
    summary="AdamW as zero3, weights sent in 8 bits and gradients in 4 (DeepSpeed ZeRO++)",
    follows="",
    rank_invariant=False,
    traffic=None,
    saves_communication=True,
    gpu_only="DeepSpeed's kernels of quantisation are CUDA's alone",
    nvcc=True)
