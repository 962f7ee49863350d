"""Training with any torch optimizer under DistributedDataParallel: one gradient, one step."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from torch.nn.parallel import DistributedDataParallel

from bench_apts.conformance.replicas import align_buffers
from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.optimizers.schedule import cosine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch


class DataParallelStepper:
    """Steps a torch optimizer on the gradient averaged over ranks, on a schedule.

    Args:
        model: On the device, the same weights on every rank.
        loss: The suite's loss.
        world: This rank's place; its budget is the schedule's horizon.
        optimizer: Makes the optimizer from the parameters, at its peak learning rate.
        schedule: ``schedule(step, steps)`` returns the factor on the peak learning rate.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        world: World,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        schedule: Callable[[int, int], float] = cosine,
    ) -> None:
        ids = [world.device.index] if world.device.type == "cuda" else None
        # A group of one has nothing to average, so it is not asked to.
        self.model = (DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
                      if world.size > 1 else model)
        self.loss, self.schedule = loss, schedule
        self.optimizer = optimizer(model.parameters())
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.steps = math.ceil(world.budget_samples / world.batch_size)
        self.taken = 0

    def step(self, batch: Batch) -> StepReport:
        """One forward and backward pass, one all-reduce of the gradient, one step."""
        factor = self.schedule(self.taken, self.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.inputs), batch.targets)
        loss.backward()
        self.optimizer.step()
        self.taken += 1
        return StepReport(loss.detach(), len(batch.targets), 1, 1)

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of weights, buffers, optimizer state and the step count."""
        return copy.deepcopy({
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "taken": self.taken,
        })

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it takes the tensors
        self.taken = state["taken"]

    def evaluation_model(self) -> torch.nn.Module:
        """Return the bare module; all ranks then have the buffers of rank 0.

        DistributedDataParallel would broadcast them before each forward pass.
        """
        module: torch.nn.Module = (
            self.model.module if isinstance(self.model, DistributedDataParallel) else self.model)
        align_buffers(module)
        return module
