"""The local phase: trust-region iterations on one rank's objective, and the steps it tries.

Nothing in here waits for the device, unless trials are retried: values stay tensors and decisions
are masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bench_apts.optimizers.apts.acceptance import LOCAL, RadiusRule
from bench_apts.optimizers.apts.lsr1_hessian import LSR1Hessian


def descent(gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the minimiser of the linear model ⟨gradient, p⟩ over ‖p‖ ≤ radius.

    −radius·g/‖g‖ in the 2-norm, −radius·sign(g) in the ∞-norm; zero where the gradient is zero.
    """
    if norm == "linf":
        return gradient.sign() * -radius
    length = torch.linalg.vector_norm(gradient)
    # First the unit vector: radius / tiny would overflow.
    unit: torch.Tensor = gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny)
    return unit.mul_(-radius)


class FirstOrder:
    """The linear model of the loss around a point, and its minimiser over a ball.

    ``TRAdam`` and ``LSR1Hessian`` have the same methods.

    Attributes:
        learns: Whether it wants pairs of steps and gradients.
    """

    learns = False

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """Return p ``(n,)`` with ‖p‖ ≤ radius for the gradient ``(n,)`` at the point."""
        return descent(gradient, radius, norm)

    def reduction(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return by how much the model falls along any step, a scalar on the device."""
        return -torch.dot(gradient, step)

    def learn(self, step: torch.Tensor, gradient: torch.Tensor, before: torch.Tensor) -> None:
        """Learn from a step and the gradients at its end and at its start, of one minibatch."""

    def state_dict(self) -> dict[str, Any]:
        """Return copies of what it remembers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class TRAdam(FirstOrder):
    """Adam's direction as long as the radius allows, under the linear model.

    d = −m̂/(√v̂ + ε) (Kingma, Ba, arXiv 1412.6980), scaled to the radius in the 2-norm; in the
    ∞-norm the radius is the length per coordinate and what exceeds it is cut. Where d does not
    descend, the first-order step is taken: the method never stands still at a slope. Every call
    of ``step`` counts its gradient into the moments, which are 2n floats.
    """

    def __init__(self, like: torch.Tensor, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self._betas = beta1, beta2
        self._first, self._second = torch.zeros_like(like), torch.zeros_like(like)
        self._count = 0

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """Return Adam's step, cut to the radius."""
        beta1, beta2 = self._betas
        self._count += 1
        # A gradient that is not finite would spoil the moments for good; its step is refused.
        sound = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        self._first.lerp_(sound, 1 - beta1)
        self._second.mul_(beta2).addcmul_(sound, sound, value=1 - beta2)
        spread = (self._second / (1 - beta2**self._count)).sqrt_().add_(1e-8)
        direction = (self._first / (beta1**self._count - 1)).div_(spread)
        if norm == "linf":
            step = torch.minimum(torch.maximum(direction * radius, -radius), radius)
        else:
            # As a descent along −d: of exactly the radius' length.
            step = descent(direction.neg_(), radius, norm)
        descends = torch.dot(gradient, step) < 0
        return torch.where(descends, step, descent(gradient, radius, norm))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the moments."""
        return {"first": self._first.clone(), "second": self._second.clone(),
                "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._count = int(state["count"])


Solver = FirstOrder | LSR1Hessian


def make(name: str, like: torch.Tensor, memory: int) -> Solver:
    """Make the solver ``name``, one of ``SOLVERS``, for vectors like ``like``."""
    if name == "l-sr1":
        return LSR1Hessian(like, memory)
    return TRAdam(like) if name == "tr-adam" else FirstOrder()


Evaluate = Callable[[torch.Tensor, bool], torch.Tensor]
"""``evaluate(step, backward)``: the objective at the iterate plus ``step``; with ``backward`` its
gradient lies in the gradient buffer afterwards."""


class LocalStep(NamedTuple):
    """What a local phase found: the displacement ``(n,)`` and the local reduction (scalar)."""

    step: torch.Tensor
    reduction: torch.Tensor


def clip_to_radius(
    step: torch.Tensor, radius: float, norm: str, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Bring ``step`` back into the ball of ``radius`` around the iterate."""
    if norm == "linf":
        return torch.clamp(step, -radius, radius, out=out)
    length = torch.linalg.vector_norm(step)
    return torch.mul(step, radius / length.clamp_min(radius), out=out)


def minimise(
    evaluate: Evaluate,
    gradient: torch.Tensor,
    value: torch.Tensor,
    gradient_buffer: torch.Tensor,
    correction: torch.Tensor,
    corrects_gradient: bool,
    radius: float,
    iterations: int,
    norm: str,
    solver: Solver | None = None,
    rule: RadiusRule = LOCAL,
    capped: bool = True,
    retries: int = 0,
) -> LocalStep:
    """Run the local phase of APTS (arXiv 2502.05133, algorithm 1) from the iterate.

    The objective is L̃(s) = L_i(θ + s) + ⟨correction, s⟩; with the correction g − ∇L_i(θ) it is
    first-order consistent: its gradient at s = 0 is the global one. Each iteration tries the
    step of the solver's model, kept if the objective falls; its own radius starts at the full
    one and follows ``rule``, and the sum of the steps never leaves the ball, if ``capped``.

    Args:
        evaluate: The rank's own loss L_i at a displacement.
        gradient: ``(n,)``, the gradient at 0 that the phase works with.
        value: L̃ at 0, a scalar.
        gradient_buffer: ``(n,)``, where ``evaluate`` leaves ∇L_i.
        correction: ``(n,)``, g − ∇L_i at 0.
        corrects_gradient: Whether the correction enters the gradients as well as the values.
        radius: Bound on the displacement.
        iterations: H; each costs one forward pass and all but the last a backward pass.
        norm: ``"l2"`` or ``"linf"``.
        solver: The model and its minimiser; first order without one. It learns from all
            gradients of the phase, also those at points that are not kept.
        rule: Ratios and factors of the phase's own radius, and its upper bound if not ``capped``.
        capped: Whether the displacement stays within ``radius``; else the phase's own radius
            begins there, may grow, and bounds each step alone.
        retries: How often an iteration tries again, by a step shorter by ``rule.shrink``, while
            the objective does not fall. Each try costs a forward pass, before the last iteration
            a backward pass too, and where another may follow the host waits for the device.

    Returns:
        The displacement and the reduction L̃(0) − L̃(s), which is never negative.
    """
    solver = solver or FirstOrder()
    step, start = torch.zeros_like(gradient), value
    reach = torch.full_like(value, radius)
    for number in range(iterations):
        last = number == iterations - 1
        move = solver.step(gradient, reach, norm)
        for left in range(retries, -1, -1):
            trial = step + move
            if capped:  # the sum of the steps stays in the ball; the model judges what is left
                clip_to_radius(trial, radius, norm, out=trial)
                move = torch.sub(trial, step, out=move)
            predicted = solver.reduction(gradient, move)
            trial_value = evaluate(trial, not last) + torch.dot(correction, trial)
            actual = value - trial_value
            # A loss that is not finite compares false, so the step that led there is dropped.
            kept = (actual > 0) & (predicted > 0)
            if not left or bool(kept):
                break
            reach, move = reach * rule.shrink, move * rule.shrink
        rho = torch.where(kept, actual / predicted, -torch.inf)
        reach = rule.resized(reach, rho).clamp_max(radius if capped else rule.largest)
        torch.where(kept, trial, step, out=step)
        value = torch.where(kept, trial_value, value)
        if not last:
            found = gradient_buffer.add_(correction) if corrects_gradient else gradient_buffer
            if solver.learns:
                solver.learn(move, found, gradient)
            # The caller's gradient is not overwritten; the phase's own one is.
            gradient = torch.where(kept, found, gradient, out=None if number == 0 else gradient)
        del move, trial  # before the next step needs room
    return LocalStep(step, start - value)
