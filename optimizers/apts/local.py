"""The local phase: a few trust-region iterations on one rank's own objective.

Nothing in here waits for the device, unless trials are retried: values stay tensors and decisions
are masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from bench_apts.optimizers.apts.radius import LOCAL, RadiusRule
from bench_apts.optimizers.apts.solvers import FirstOrder, Solver, descent

__all__ = ["Evaluate", "LocalStep", "descent", "minimise", "within"]

Evaluate = Callable[[torch.Tensor, bool], torch.Tensor]
"""``evaluate(step, backward)``: the objective at the iterate plus ``step``; with ``backward`` its
gradient lies in the gradient buffer afterwards."""


class LocalStep(NamedTuple):
    """What a local phase found: the displacement ``(n,)`` and the local reduction (scalar)."""

    step: torch.Tensor
    reduction: torch.Tensor


def within(
    step: torch.Tensor, radius: float, norm: str, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Brings ``step`` back into the ball of ``radius`` around the iterate."""
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
    """Runs the local phase of APTS (arXiv 2502.05133, algorithm 1) from the iterate.

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
            if capped:
                within(trial, radius, norm, out=trial)
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
