"""1-bit Adam, DeepSpeed's: the momentum is sent as signs once the second moment is frozen.

Tang et al., arXiv 2102.02888, algorithm 1: after a first stage of Adam with the gradient averaged
whole, the second moment stays as it is, and ranks average their momentum by signs and one scale
per message, with error feedback of both messages. DeepSpeed's Adam corrects no bias, so that its
first steps are up to (1 − β1)/√(1 − β2) = 3.2 times as long as ``adam``'s.

The range of the learning rate is ``adam``'s, and so are its default and the betas, which are
DeepSpeed's too. ``start`` is the middle of the 15 to 25 % of all steps that DeepSpeed's tutorial
advises for the first stage. Its authors verified convergence in float16 alone; this is float32.

DeepSpeed 0.19.3 to 0.19.6 have it, and it needs CuPy, whose package is named after the CUDA of
torch: ``cupy-cuda13x`` or ``cupy-cuda12x``. For each tensor, padded to a multiple of lcm(8, N) N
numbers, a step sends n/8 bytes in an all-to-all, as many in an all-gather, and two scales.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Hyperparameter, Loss, World
from bench_apts.optimizers.adam import HYPERPARAMETERS
from bench_apts.optimizers.deepspeed_engine import EngineStepper

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_STAGE = ("initialize", "adam_freeze_key")
"""Attributes of DeepSpeed's optimizer that say which stage it is in."""


class OneBitStepper(EngineStepper):
    """An engine with DeepSpeed's ``OnebitAdam``."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
    ) -> None:
        import torch

        steps = math.ceil(world.budget_samples / world.batch_size)
        settings = {
            "lr": values["lr"], "betas": (values["beta1"], values["beta2"]),
            "weight_decay": values["weight_decay"],
            # It counts the step below, and then takes one of Adam's at least.
            "freeze_step": 1 + max(1, round(values["start"] * steps)),
        }
        super().__init__(model, loss, values, world, {
            "optimizer": {"type": "OneBitAdam", "params": settings}})
        # Its first step allocates and exchanges zeros but moves nothing: none is lost for it.
        parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.engine.optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, buffers and optimizer state, this rank's errors among it."""
        optimizer = self.engine.optimizer
        return copy.deepcopy({
            "model": self.engine.module.state_dict(),
            "state": [optimizer.state.get(p, {}) for p in self.engine.module.parameters()],
            "stage": {name: getattr(optimizer, name) for name in _STAGE},
            "reduces": self.engine.enable_backward_allreduce,
            "taken": self.taken,
        })

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        # Not by its own method, which drops the errors.
        optimizer, state = self.engine.optimizer, copy.deepcopy(state)
        self.engine.module.load_state_dict(state["model"])
        optimizer.state.clear()
        for parameter, moments in zip(
                self.engine.module.parameters(), state["state"], strict=True):
            if moments:
                optimizer.state[parameter] = moments
        vars(optimizer).update(state["stage"])
        self.engine.enable_backward_allreduce = state["reduces"]
        self.taken = state["taken"]


backend = Backend(
    name="onebit-adam",
    summary="Adam whose momentum is sent as signs once its second moment is frozen (DeepSpeed)",
    hyperparameters=HYPERPARAMETERS | {
        "start": Hyperparameter(0.2, "share of the budget with whole gradients first", least=0,
                                below=1)},
    build=OneBitStepper,
    requires=("deepspeed.runtime.fp16.onebit.adam", "cupy"),
    install="deepspeed>=0.19.3,<0.19.7 cupy-cuda13x",
    sources=("bench_apts.optimizers.deepspeed_engine", "bench_apts.optimizers.adam",
             "bench_apts.optimizers.schedule"),
    saves_communication=True,
    gpu_only="DeepSpeed packs the signs by CuPy",
)
