"""AdamW whose state, or whose parameters too, PyTorch divides over the ranks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer

from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.optimizers import schedule
from bench_apts.optimizers.adam import adamw
from bench_apts.plugins import micro_batches
from bench_apts.plugins.replicas import align_buffers, local_part
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class OwnShard(ZeroRedundancyOptimizer):
    """A ``ZeroRedundancyOptimizer`` whose state is that of this rank's shard.

    torch's own state is that of all shards, gathered on one rank.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this rank's optimizer."""
        found: dict[str, Any] = self.optim.state_dict()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        self.optim.load_state_dict(state_dict)


class FullyShardedStepper:
    """AdamW under FSDP2: each rank holds its part of parameters, gradients and moments.

    The model is one unit: a step gathers all parameters before the forward pass and keeps them
    for the backward pass. So does the first forward pass of an evaluation.
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
    ) -> None:
        fully_shard(model)  # in place: it gets the methods of FSDPModule
        self.model: Any = model
        self.loss, self.world, self.peak = loss, world, values["lr"]
        self.schedule = schedule.find(values)
        self.optimizer = adamw(
            [p for p in self.model.parameters() if p.requires_grad], values)
        self.steps = math.ceil(world.budget_samples / world.batch_size)
        self.taken = 0

    def step(self, batch: Batch) -> StepReport:
        """Do one forward and backward pass of each micro-batch, and one step."""
        self.model.reshard()  # an evaluation leaves parameters gathered
        self.optimizer.zero_grad()
        loss = micro_batches.backward(
            self.model, self.loss, batch, self.world.micro_batch, self._hold)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * self.schedule(self.taken, self.steps)
        self.optimizer.step()
        self.taken += 1
        passes = micro_batches.count(len(batch.targets), self.world.micro_batch)
        return StepReport(loss, len(batch.targets), passes, passes)

    @contextmanager
    def _hold(self) -> Iterator[None]:
        """Have backward passes keep parameters gathered and send no gradients."""
        self.model.set_requires_gradient_sync(False)
        self.model.set_reshard_after_backward(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)
            self.model.set_reshard_after_backward(True)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of this rank's parts of weights and moments, and of the buffers."""
        self.model.reshard()
        moments = [{name: local_part(value) if isinstance(value, torch.Tensor) else value
                    for name, value in self.optimizer.state.get(p, {}).items()}
                   for p in self._trained()]
        return copied({
            "weights": [local_part(p) for p in self.model.parameters()],
            "buffers": list(self.model.buffers()), "moments": moments, "taken": self.taken})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        self.model.reshard()
        for mine, saved in ((map(local_part, self.model.parameters()), state["weights"]),
                            (self.model.buffers(), state["buffers"])):
            for tensor, values in zip(mine, saved, strict=True):
                tensor.copy_(values)
        self.optimizer.state.clear()
        for p, moments in zip(self._trained(), state["moments"], strict=True):
            for name, values in moments.items():
                like = torch.zeros_like(p) if values.dim() else torch.zeros_like(values)
                local_part(like).copy_(values)
                self.optimizer.state[p][name] = like
        self.taken = state["taken"]

    def _trained(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def evaluation_model(self) -> torch.nn.Module:
        """Return the sharded module, all ranks with the buffers of rank 0."""
        align_buffers(self.model)
        model: torch.nn.Module = self.model
        return model
