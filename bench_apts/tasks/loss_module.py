"""What optimizers are given to train: the network, or a module that computes a task's losses."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.plugins.optimizer_contract import Batch
from bench_apts.tasks.task import OutputTask, Task, every_metric, reduced

if TYPE_CHECKING:
    from bench_apts.plugins.optimizer_contract import Loss


class LossModule(torch.nn.Module):
    """A network whose forward pass takes a whole batch and returns the losses of its samples.

    DistributedDataParallel, DeepSpeed, FSDP2 and ``torch.compile`` wrap this module, and every
    call of the network lies inside their forward pass.

    Args:
        network: The user's.
        task: What computes the losses.
    """

    def __init__(self, network: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, batch: Batch, measure: bool = False) -> Any:
        """Return the losses, ``(b,)``, or with ``measure`` the sums and counts by metric.

        Without gradients these are computed with them all the same, as losses may be made of
        derivatives, and detached.
        """
        if torch.is_grad_enabled() and not measure:
            return self.task.losses(self.network, batch)
        with torch.enable_grad():
            losses = self.task.losses(self.network, batch)
            if not measure:
                return losses.detach()
            found = {**self.task.measures(self.network, batch),
                     "loss": (losses.double().sum(), len(losses))}
        return _stacked(self.task, found, losses.device)


class ByName(torch.nn.Module):
    """A network whose inputs are a dictionary, which it takes as keyword arguments.

    Args:
        network: The user's.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> Any:
        """Return what the network returns."""
        return self.network(**inputs)


def trained(
    network: torch.nn.Module, task: Task, scale: float = 1.0
) -> tuple[torch.nn.Module, Loss]:
    """Return the module that optimizers train, and the loss that reduces what it returns.

    Args:
        network: The suite's.
        task: Its task.
        scale: Factor on the loss.
    """
    module, loss = ((network, task.loss) if isinstance(task, OutputTask)
                    else (LossModule(network, task), _reduce))
    return module, loss if scale == 1 else functools.partial(_scaled, loss, scale)


def model_inputs(task: Task, batch: Batch) -> Batch:
    """Return a batch as optimizers get it: its inputs are what the trained module takes."""
    return batch if isinstance(task, OutputTask) else Batch(batch, batch.targets)


def measured(model: torch.nn.Module, task: Task, batch: Batch) -> torch.Tensor:
    """Return sum and count of every metric, float64 ``(metrics, 2)``, as ``every_metric`` orders.

    Args:
        model: The trained module, or what wraps it, in evaluation mode.
        task: Its task.
        batch: As the loader gives it.
    """
    if not isinstance(task, OutputTask):
        result: torch.Tensor = model(batch, measure=True)
        return result
    output, targets = model(batch.inputs), batch.targets
    return _stacked(task, {
        **task.score(output, targets),
        "loss": (task.loss(output, targets, reduction="sum"), len(targets))}, targets.device)


def _stacked(task: Task, found: Any, device: torch.device) -> torch.Tensor:
    """Return sum and count of each metric as float64, ``(metrics, 2)``."""
    rows = []
    for name in every_metric(task):
        if name not in found:
            raise ValueError(f"measures(model, batch) returned no '{name}'")
        total, count = found[name]
        rows.append(torch.stack([torch.as_tensor(number, device=device).detach().double()
                                 for number in (total, count)]))
    return torch.stack(rows)


def _scaled(
    loss: Loss, scale: float, output: Any, targets: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    scaled: torch.Tensor = scale * loss(output, targets, reduction=reduction)
    return scaled


def _reduce(losses: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Reduce losses that the module has computed; the targets have entered them."""
    return reduced(losses, reduction)
