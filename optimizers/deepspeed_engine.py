"""A DeepSpeed engine as a stepper: what all backends of DeepSpeed have in common."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.optimizers import schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class EngineStepper:
    """A DeepSpeed engine in float32, stepped on a schedule; a subclass stores its state.

    Args:
        model: On the device, the same weights on every rank.
        loss: The suite's loss.
        values: Peak learning rate and schedule.
        world: This rank's place; its budget is the schedule's horizon.
        config: What the engine's configuration has besides batch and accumulation.
        optimizer: On the model's parameters; None for the one that ``config`` names.
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World,
        config: Mapping[str, Any], optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        import deepspeed

        from bench_apts.plugins import micro_batches

        if world.device.type == "cpu":
            # Its shared-memory op takes minutes to compile, and nothing here uses it.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            os.environ.pop("LOCAL_SIZE", None)
        deepspeed.init_distributed(verbose=False)
        share, self.most = world.batch_size // world.size, world.micro_batch
        parts = micro_batches.count(share, self.most)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={
            "train_micro_batch_size_per_gpu": math.ceil(share / parts),
            "gradient_accumulation_steps": parts,
            "timers": {"throughput": {"enabled": False}},  # waits for the device twice a step
            "gradient_clipping": 0.0,  # its default of 1 would make another optimizer of it
            **config,
        })
        self.loss, self.peak, self.schedule = loss, values["lr"], schedule.find(values)
        self.steps = math.ceil(world.budget_samples / world.batch_size)
        self.taken = 0

    def step(self, batch: Batch) -> StepReport:
        """Do one forward and backward pass of each micro-batch and one step of the optimizer."""
        from bench_apts.plugins import micro_batches

        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.peak * self.schedule(self.taken, self.steps)
        parts = micro_batches.parts(batch, self.most)
        losses = []
        for part, share in parts:
            loss = self.loss(self.forward(part.inputs), part.targets)
            if len(parts) > 1:
                loss = loss * share
            losses.append(loss.detach())
            # The engine divides by the number of micro-batches, and steps at the last one.
            self.engine.backward(loss * len(parts) if len(parts) > 1 else loss)
            self.engine.step()
        self.taken += 1
        return StepReport(sum(losses[1:], losses[0]), len(batch.targets), len(parts), len(parts))

    def forward(self, inputs: Any) -> Any:
        """Return the model's output for a micro-batch."""
        return self.engine(inputs)

    def evaluation_model(self) -> torch.nn.Module:
        """Return the engine, which gathers partitioned parameters in its forward pass.

        All ranks then have the buffers of rank 0.
        """
        from bench_apts.plugins.replicas import align_buffers

        module: torch.nn.Module = self.engine
        align_buffers(module)
        return module
