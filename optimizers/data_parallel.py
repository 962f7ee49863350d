"""Any torch optimizer under DistributedDataParallel, and AlgoPerf's NAdamW as one of them."""

from __future__ import annotations

import copy
import inspect
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.core.errors import UserError
from bench_apts.optimizers.schedule import cosine
from bench_apts.plugins import micro_batches
from bench_apts.plugins.randomness import Redraw
from bench_apts.plugins.replicas import align_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SECOND_DERIVATIVES = (
    "{} differentiates the gradient (backward(create_graph=True)), which cannot pass through "
    "DistributedDataParallel: give it a stepper of its own that computes second derivatives and "
    "averages them (docs/optimizers.md)")


class DataParallelStepper:
    """A torch optimizer on the gradient averaged over ranks, on a schedule.

    An optimizer whose ``step`` requires a closure (LBFGS) evaluates loss and gradient itself, as
    often as it likes. The closure averages the loss over the ranks too, in one more all-reduce of
    one float: what the optimizer decides by it must be the same everywhere.

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
    ) -> None:
        ids = [world.device.index] if world.device.type == "cuda" else None
        # A single rank has nothing to average.
        self.model = (DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
                      if world.size > 1 else model)
        # Only the last part of a minibatch has DistributedDataParallel send.
        self._hold = getattr(self.model, "no_sync", nullcontext)
        self.loss, self.schedule, self.world = loss, schedule, world
        made = optimizer(model.named_parameters() if named else model.parameters())
        self.optimizers = (made,) if isinstance(made, torch.optim.Optimizer) else tuple(made)
        self.optimizer: Any = self.optimizers[0]
        self.required = any(_requires_closure(each) for each in self.optimizers)
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
            return losses[-1]

        def closure() -> torch.Tensor:
            mean = evaluate().clone()
            if self.world.size > 1:
                dist.all_reduce(mean)
                mean /= self.world.size
            return mean

        arguments: list[Any] = [closure] if self.closure else []
        if not self.required:
            evaluate()
        for each in self.optimizers:
            try:
                each.step(*arguments)
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

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, buffers, optimizer state and the count of minibatches."""
        return copy.deepcopy({
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "taken": self.taken,
        })

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        # They take the tensors themselves.
        for each, saved in zip(self.optimizers, copy.deepcopy(state["optimizers"]), strict=True):
            each.load_state_dict(saved)
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


def _requires_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class NAdamW(torch.optim.Optimizer):
    """NAdam without momentum decay, with decoupled weight decay.

    With the gradient g and Adam's moments m and v after t steps, a step of length lr is::

        w ← (1 − lr·λ) w − lr · û / (√v̂ + ε)
        û = (β₁ m + (1 − β₁) g) / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)

    This is the rule of AlgoPerf's NAdamW baselines (mlcommons/algorithmic-efficiency), after
    Table 1 of Choi et al., arXiv 1910.05446. ``torch.optim.NAdam`` follows Dozat (2016) instead:
    its momentum grows from β₁/2, or stays there where ``momentum_decay`` is 0, and it corrects the
    bias of m and of g by different factors.

    Args:
        params: Parameters, or parameter groups of them.
        lr: Step length.
        betas: β₁ and β₂, the decays of the first and the second moment.
        eps: ε.
        weight_decay: λ.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step(weights, group)

    def _step(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        for p in weights:
            state = self.state[p]
            if not state:
                state |= {"step": 0, "exp_avg": torch.zeros_like(p),
                          "exp_avg_sq": torch.zeros_like(p)}
            state["step"] += 1
        gradients = [p.grad for p in weights if p.grad is not None]
        steps, first, second = (
            [self.state[p][key] for p in weights] for key in ("step", "exp_avg", "exp_avg_sq"))
        # Operations on lists take one launch on a GPU where loops take one per tensor.
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        directions = torch._foreach_lerp(first, gradients, 1 - beta1)
        spreads = torch._foreach_sqrt(second)
        torch._foreach_div_(spreads, [math.sqrt(1 - beta2**t) for t in steps])
        torch._foreach_add_(spreads, group["eps"])
        torch._foreach_addcdiv_(
            weights, directions, spreads, [-lr / (1 - beta1**t) for t in steps])
