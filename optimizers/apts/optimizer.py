"""APTS as a ``torch.optim.Optimizer`` over ``torch.distributed``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.collective import Ranks
from bench_apts.optimizers.apts.flat import FlatParameters
from bench_apts.optimizers.apts.local import descent, minimise
from bench_apts.optimizers.apts.radius import RadiusRule, acceptance_ratio

if TYPE_CHECKING:
    import torch.distributed as dist

Closure = Callable[..., torch.Tensor]


def _no_closure(backward: bool) -> torch.Tensor:
    raise RuntimeError("step() has not been called")


class APTS(torch.optim.Optimizer):
    """The published data-parallel APTS (arXiv 2502.05133, algorithm 1) with first-order models.

    Every rank calls ``step`` with a closure over its own shard of the minibatch. One outer
    iteration: (1) loss and gradient of all shards, one all-reduce; (2) every rank minimises its
    first-order consistent local objective within the trust region; (3) the local steps are
    combined, one all-reduce; (4) the combined step is accepted or rejected by the ratio of actual
    to predicted reduction, one all-reduce; (5) optionally one trust-region iteration on the
    global loss, another all-reduce of one float. With H local iterations that is H + 3 forward
    and H + 1 backward passes and 3n + 4 floats in 4 calls; without (5) H + 2 and H passes and
    2n + 3 floats in 3 calls; a single process sends nothing.

    Usage::

        opt = APTS(model.parameters())
        def closure(backward=True):
            loss = loss_function(model(inputs), targets)   # the mean over this rank's shard
            if backward:
                loss.backward()                            # accumulates; zeroing is done for you
            return loss.detach()
        opt.step(closure)

    The closure must be deterministic within one ``step`` (same shard, no fresh dropout masks),
    since losses are compared. Shards have equal sizes on all ranks.

    Args:
        params: Parameters of one dtype on one device, or parameter groups of them.
        process_group: The ranks that work together; None for the default group, or for none.
        radius: Initial trust-region radius Δ₀.
        min_radius: Lower bound of the radius.
        max_radius: Upper bound of the radius.
        local_iterations: H; 0 leaves out the local phase, which makes a plain data-parallel
            trust-region method of it.
        norm: ``"l2"``: local radius Δ/N, local steps and reductions are summed; ``"linf"``: local
            radius Δ, they are averaged.
        consistency: ``"gradient"``: the correction enters local values and gradients, as the
            paper's formula says; ``"value"``: values only, as in the code behind the paper's
            curves.
        global_pass: Whether an outer iteration ends with one trust-region iteration on the
            global loss.
        buffers: BatchNorm statistics and the like. They are averaged over the ranks as they are
            after the pass at the iterate; what later passes of the iteration do to them is undone.

    Raises:
        ValueError: No parameters, mixed dtypes, or a setting out of its range.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        process_group: dist.ProcessGroup | None = None,
        *,
        radius: float = 0.01,
        min_radius: float = 1e-3,
        max_radius: float = 4.0,
        local_iterations: int = 5,
        norm: str = "l2",
        consistency: str = "gradient",
        global_pass: bool = True,
        buffers: Iterable[torch.Tensor] = (),
    ) -> None:
        if norm not in ("l2", "linf"):
            raise ValueError(f"norm must be 'l2' or 'linf', not {norm!r}")
        if consistency not in ("gradient", "value"):
            raise ValueError(f"consistency must be 'gradient' or 'value', not {consistency!r}")
        if local_iterations < 0 or (local_iterations == 0 and not global_pass):
            raise ValueError("need local iterations, a global pass, or both")
        if not min_radius <= radius <= max_radius:
            raise ValueError(f"radius {radius} is not within [{min_radius}, {max_radius}]")
        super().__init__(params, {})
        trained = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if not trained:
            raise ValueError("no parameter requires a gradient")
        self._rule = RadiusRule(smallest=min_radius, largest=max_radius)
        self._ranks = Ranks(process_group)
        self._flat = FlatParameters(trained, slots=1)
        self._local_iterations, self._norm = local_iterations, norm
        self._corrects_gradient = consistency == "gradient"
        self._global_pass = global_pass
        buffers = list(buffers)
        self._buffers = [b for b in buffers if b.is_floating_point()]
        self._counters = [b for b in buffers if not b.is_floating_point()]
        self._iterate = torch.empty_like(self._flat.values)
        self._closure: Closure = _no_closure
        self._forwards = self._backwards = 0
        self.radius = radius
        self.last: dict[str, float | bool | int] = {}

    def step(self, closure: Closure) -> torch.Tensor:  # type: ignore[override]
        """Does one outer iteration.

        Args:
            closure: ``closure(backward: bool)`` returns the mean loss of this rank's shard and,
                if asked, adds its gradient to ``p.grad``.

        Returns:
            The loss over all shards at the iterate that the step started from, a scalar.

        Raises:
            FloatingPointError: That loss is not finite on some rank; raised on all ranks.
        """
        flat, ranks = self._flat, self._ranks
        flat.attach()
        self._closure = closure
        self._forwards = self._backwards = 0
        floats, calls = ranks.floats, ranks.calls
        self._iterate.copy_(flat.values)

        own_value = self._evaluate(None, True)
        own_gradient = flat.gradient.clone() if self._local_iterations else None
        self._average(own_value)
        buffers = [b.clone() for b in (*self._buffers, *self._counters)]
        gradient, value = flat.gradient.clone(), flat.scalars[0].clone()
        loss = float(value)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss at the current iterate is {loss}")
        self.last = {}
        point = loss
        if own_gradient is not None:
            step, predicted = self._precondition(own_value, own_gradient, gradient)
            point, gradient = self._judge(step, predicted, loss, gradient)
        if self._global_pass:
            point = self._descend(point, gradient)
        with torch.no_grad():
            for buffer, saved in zip((*self._buffers, *self._counters), buffers, strict=True):
                buffer.copy_(saved)
        self.last |= {
            "radius": self.radius, "loss": point, "forwards": self._forwards,
            "backwards": self._backwards, "floats": ranks.floats - floats,
            "calls": ranks.calls - calls}
        return value

    def _evaluate(self, step: torch.Tensor | None, backward: bool) -> torch.Tensor:
        """Returns this rank's loss at the iterate plus ``step``; the parameters stay there."""
        flat = self._flat
        if step is not None:
            torch.add(self._iterate, step, out=flat.values)
        self._forwards += 1
        self._backwards += backward
        if backward:
            flat.message.zero_()
        with torch.set_grad_enabled(backward):
            return self._closure(backward=backward).detach().to(flat.values.dtype)

    def _average(self, value: torch.Tensor) -> None:
        """Averages gradient and loss over the ranks, and the buffers with them, in one call."""
        flat = self._flat
        flat.scalars[0] = value
        if not self._buffers or self._ranks.size == 1:
            self._ranks.mean(flat.message)
            return
        message = torch.cat([flat.message, *(b.flatten().to(flat.message) for b in self._buffers)])
        self._ranks.mean(message)
        flat.message.copy_(message[: len(flat.message)])
        offset = len(flat.message)
        for buffer in self._buffers:
            buffer.copy_(message[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()

    def _precondition(
        self, own_value: torch.Tensor, own_gradient: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Runs the local phase and combines the local steps.

        Returns:
            The combined step ``(n,)`` and the predicted reduction.
        """
        summed = self._norm == "l2"
        correction = gradient - own_gradient
        radius = self.radius / self._ranks.size if summed else self.radius
        local = minimise(
            self._evaluate,
            gradient=gradient if self._corrects_gradient else own_gradient,
            value=own_value, gradient_buffer=self._flat.gradient,
            correction=correction, corrects_gradient=self._corrects_gradient,
            radius=radius, iterations=self._local_iterations, norm=self._norm)
        message = self._flat.message
        message[:-1] = local.step
        message[-1] = local.reduction
        (self._ranks.sum if summed else self._ranks.mean)(message)
        return self._flat.gradient.clone(), float(message[-1])

    def _judge(
        self, step: torch.Tensor, predicted: float, loss: float, gradient: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """Accepts or rejects the combined step and lets the radius follow.

        Returns:
            Loss and gradient at the point that the parameters are left at.
        """
        value = self._evaluate(step, self._global_pass)
        if self._global_pass:
            self._flat.scalars[0] = value
            self._ranks.mean(self._flat.message)
            value = self._flat.scalars[0]
        else:
            self._ranks.mean(value := value.reshape(1))
        trial = float(value)
        rho = acceptance_ratio(loss - trial, predicted)
        accepted = rho >= self._rule.accept
        self.last |= {"rho": rho, "accepted": accepted, "actual_reduction": loss - trial,
                      "predicted_reduction": predicted}
        self.radius = self._rule.update(self.radius, rho)
        if not accepted:
            self._flat.values.copy_(self._iterate)
            return loss, gradient
        self._iterate.copy_(self._flat.values)
        return trial, self._flat.gradient.clone() if self._global_pass else gradient

    def _descend(self, loss: float, gradient: torch.Tensor) -> float:
        """Does one first-order trust-region iteration on the global loss.

        Returns:
            The loss at the point that the parameters are left at.
        """
        radius = torch.full_like(gradient[0], self.radius)
        step = descent(gradient, radius, self._norm)
        predicted = -torch.dot(gradient, step)
        message = torch.stack([self._evaluate(step, False)])
        self._ranks.mean(message)
        trial, expected = float(message), float(predicted)
        rho = acceptance_ratio(loss - trial, expected)
        accepted = rho >= self._rule.accept
        names = ("global_rho", "global_accepted") if "rho" in self.last else ("rho", "accepted")
        self.last |= dict(zip(names, (rho, accepted), strict=True))
        self.radius = self._rule.update(self.radius, rho)
        if not accepted:
            self._flat.values.copy_(self._iterate)
            return loss
        return trial

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zeroes the gradient buffer; ``step`` does so itself. Gradients stay views of it."""
        self._flat.message.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Returns the usual dictionary with the radius, which is all that the method remembers."""
        return super().state_dict() | {"radius": self.radius}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        rest = {key: value for key, value in state_dict.items() if key != "radius"}
        super().load_state_dict(rest)
        self.radius = float(state_dict["radius"])
