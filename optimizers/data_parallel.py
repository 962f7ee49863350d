"""Any torch optimizer under DistributedDataParallel."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.core.errors import UserError
from bench_apts.optimizers import gradient_hooks
from bench_apts.optimizers.schedule import cosine
from bench_apts.plugins import micro_batches
from bench_apts.plugins.randomness import Redraw
from bench_apts.plugins.replicas import align_buffers
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench_apts.optimizers.gradient_hooks import GradientHook

_SECOND_DERIVATIVES = (
    "{} differentiates the gradient (backward(create_graph=True)), which cannot pass through "
    "DistributedDataParallel: give it a stepper of its own that computes second derivatives and "
    "averages them (docs/optimizers.md)")


class DataParallelStepper:
    """A torch optimizer on the gradient averaged over ranks, on a schedule.

    An optimizer whose ``step`` requires a closure (LBFGS) evaluates loss and gradient itself, as
    often as it likes. The closure averages the loss over the ranks too, in one more all-reduce of
    one float: what the optimizer decides by it must be the same everywhere. For the same reason an
    optimizer whose ``step`` takes an argument ``loss`` (MoMo, Polyak steps) is given this average.

    Args:
        model: On the device, the same weights on every rank.
        loss: The suite's loss.
        world: This rank's place; its budget is the schedule's horizon.
        optimizer: Makes the optimizer from the parameters, at its peak learning rate; or several
            of them, of different parameters (Muon for the matrices, AdamW for the rest).
        schedule: ``schedule(step, steps)`` returns the factor on the peak learning rate; a step
            is one minibatch processed, so that a closure called five times counts five.
        named: Whether ``optimizer`` is called with ``model.named_parameters()``, pairs of name
            and parameter, instead of ``model.parameters()``.
        closure: Whether ``step`` is given a closure although it does not require one (SAM). The
            gradient is there before the call all the same.
        clip: Largest Euclidean norm of the averaged gradient of all parameters together; a
            longer one is scaled to it. 0 for no limit.
        hook: What averages the gradients in the place of an all-reduce: a communication hook of
            ``gradient_hooks``, or its name.
        local: Whether the optimizer exchanges what it needs itself, as DeMo does: gradients then
            stay this rank's own.

    Attributes:
        optimizers: What ``optimizer`` made.
        optimizer: The first of them.

    Raises:
        UserError: Several optimizers were made, and one takes a closure.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        world: World,
        optimizer: Callable[[Any], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]],
        schedule: Callable[[int, int], float] = cosine,
        *,
        named: bool = False,
        closure: bool = False,
        clip: float = 0.0,
        hook: GradientHook | str | None = None,
        local: bool = False,
    ) -> None:
        # A single rank has nothing to average.
        self.hook = gradient_hooks.find(hook) if isinstance(hook, str) else hook
        self.model = model if local or world.size == 1 else _replicated(model, world, self.hook)
        # Only the last part of a minibatch has DistributedDataParallel send.
        self._hold = getattr(self.model, "no_sync", nullcontext)
        self.loss, self.schedule, self.world, self.clip = loss, schedule, world, clip
        made = optimizer(model.named_parameters() if named else model.parameters())
        self.optimizers = (made,) if isinstance(made, torch.optim.Optimizer) else tuple(made)
        self.optimizer: Any = self.optimizers[0]
        self.required = any(_requires_closure(each) for each in self.optimizers)
        self.takes_loss = [not self.required and "loss" in _arguments(each)
                           for each in self.optimizers]
        self.closure = closure or self.required
        if self.closure and len(self.optimizers) > 1:
            raise UserError("an optimizer that takes a closure must be the only one of a "
                            "DataParallelStepper: each of several would evaluate alone")
        self.peaks = [group["lr"] for each in self.optimizers for group in each.param_groups]
        self.steps = math.ceil(world.budget_samples / world.batch_size)
        self.taken = 0

    def step(self, batch: Batch) -> StepReport:
        """Do one forward and backward pass, one all-reduce of the gradient, one step.

        With a closure as many passes as the optimizer asks for.
        """
        factor = self.schedule(self.taken, self.steps)
        groups = (group for each in self.optimizers for group in each.param_groups)
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        losses: list[torch.Tensor] = []
        redraw = Redraw(self.world.device) if self.closure else None

        def evaluate() -> torch.Tensor:
            if redraw and losses:
                redraw.again()
            for each in self.optimizers:
                each.zero_grad()
            with torch.enable_grad():
                losses.append(micro_batches.backward(
                    self.model, self.loss, batch, self.world.micro_batch, self._hold))
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            return losses[-1]

        arguments: list[Any] = [lambda: self._averaged(evaluate())] if self.closure else []
        mean: dict[str, Any] = {}
        if not self.required:
            evaluate()
        if any(self.takes_loss):
            mean["loss"] = self._averaged(losses[-1])
        for each, takes_loss in zip(self.optimizers, self.takes_loss, strict=True):
            try:
                each.step(*arguments, **(mean if takes_loss else {}))
            except RuntimeError as error:
                if "grad_fn" in str(error) or "create_graph" in str(error):
                    raise UserError(_SECOND_DERIVATIVES.format(type(each).__name__)) from error
                raise
        if not losses:
            raise UserError(f"{type(self.optimizer).__name__}.step(closure) never called the "
                            "closure that it requires")
        self.taken += len(losses)
        passes = len(losses) * micro_batches.count(len(batch.targets), self.world.micro_batch)
        return StepReport(losses[0], len(losses) * len(batch.targets), passes, passes)

    def _averaged(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the mean of the ranks' losses, the same bits on all of them."""
        mean = loss.clone()
        if self.world.size > 1:
            dist.all_reduce(mean)
            mean /= self.world.size
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, buffers, optimizer state and the count of minibatches."""
        return copied({
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "hook": self.hook.state_dict() if self.hook else {},
            "taken": self.taken,
        })

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        # They take the tensors themselves.
        for each, saved in zip(self.optimizers, copied(state["optimizers"]), strict=True):
            each.load_state_dict(saved)
        if self.hook:
            self.hook.load_state_dict(state["hook"])
        self.taken = state["taken"]

    @property
    def module(self) -> torch.nn.Module:
        """The bare module."""
        model = self.model
        found: torch.nn.Module = (
            model.module if isinstance(model, DistributedDataParallel) else model)
        return found

    def evaluation_model(self) -> torch.nn.Module:
        """Return the bare module; all ranks then have the buffers of rank 0.

        DistributedDataParallel would broadcast them before each forward pass.
        """
        align_buffers(self.module)
        return self.module


def _arguments(optimizer: torch.optim.Optimizer) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(optimizer.step).parameters


def _replicated(
    model: torch.nn.Module, world: World, hook: GradientHook | None
) -> DistributedDataParallel:
    """Return the model under DistributedDataParallel, whose gradients a hook averages if given."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    replicated = DistributedDataParallel(
        model, device_ids=[world.device.index] if world.device.type == "cuda" else None,
        bucket_cap_mb=1 + math.ceil(size / 2**20) if hook and hook.whole else None,
        gradient_as_bucket_view=True)
    if hook:
        hook.register(replicated)
    return replicated


def _requires_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = _arguments(optimizer).get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
