"""The published data-parallel APTS (arXiv 2502.05133, algorithm 1) with first-order models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.local import descent, minimise
from bench_apts.optimizers.apts.radius import RadiusRule, acceptance_ratio

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.collective import Ranks
    from bench_apts.optimizers.apts.problem import Problem


@dataclass(frozen=True)
class PaperSettings:
    """Settings of ``variant="paper"``; the defaults are those behind the paper's experiments.

    Attributes:
        radius: Initial trust-region radius Δ₀.
        min_radius: Lower bound of the radius.
        max_radius: Upper bound of the radius.
        local_iterations: H; 0 leaves out the local phase, which makes a plain data-parallel
            trust-region method of it.
        norm: ``"l2"``: local radius Δ/N, local steps and reductions are summed; ``"linf"``:
            local radius Δ, they are averaged.
        consistency: ``"gradient"``: the correction enters local values and gradients, as the
            paper's formula says; ``"value"``: values only, as in the code behind its curves.
        global_pass: Whether an outer iteration ends with one trust-region iteration on the
            global loss.
    """

    radius: float = 0.01
    min_radius: float = 1e-3
    max_radius: float = 4.0
    local_iterations: int = 5
    norm: str = "l2"
    consistency: str = "gradient"
    global_pass: bool = True

    def __post_init__(self) -> None:
        if self.norm not in ("l2", "linf"):
            raise ValueError(f"norm must be 'l2' or 'linf', not {self.norm!r}")
        if self.consistency not in ("gradient", "value"):
            raise ValueError("consistency must be 'gradient' or 'value', not "
                             f"{self.consistency!r}")
        if self.local_iterations < 0 or (self.local_iterations == 0 and not self.global_pass):
            raise ValueError("need local iterations, a global pass, or both")
        if not 0 < self.min_radius <= self.radius <= self.max_radius:
            raise ValueError(f"radius {self.radius} is not a positive number within "
                             f"[{self.min_radius}, {self.max_radius}]")


class PaperMethod:
    """One outer iteration per call of ``iterate``.

    (1) Loss and gradient of all shards, one all-reduce; (2) every rank minimises its first-order
    consistent local objective within the trust region; (3) the local steps are combined, one
    all-reduce; (4) the combined step is accepted or rejected by the ratio of actual to predicted
    reduction, one all-reduce; (5) optionally one trust-region iteration on the global loss, with
    another all-reduce of one float. With H local iterations that is H + 3 forward and H + 1
    backward passes and 3n + 4 floats in 4 calls; without (5) H + 2 and H passes and 2n + 3
    floats in 3 calls. A single process sends nothing.

    BatchNorm statistics are averaged over the ranks as they are after the pass at the iterate;
    what the later passes of the iteration do to them is undone.
    """

    SLOTS = 1

    def __init__(self, problem: Problem, ranks: Ranks, settings: PaperSettings) -> None:
        self._problem, self._flat, self._ranks = problem, problem.flat, ranks
        self._settings = settings
        self._rule = RadiusRule(smallest=settings.min_radius, largest=settings.max_radius)
        self._iterate = torch.empty_like(self._flat.values)
        self.radius = settings.radius

    def iterate(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Does one outer iteration; see ``APTS.step``."""
        flat, settings = self._flat, self._settings
        self._iterate.copy_(flat.values)
        own_value = self._problem.evaluate(backward=True).mean()
        own_gradient = flat.gradient.clone() if settings.local_iterations else None
        flat.scalars[0] = own_value
        flat.pack_buffers()
        self._ranks.mean(flat.message)
        flat.unpack_buffers()
        buffers = flat.save_buffers()
        gradient, value = flat.gradient.clone(), flat.scalars[0].clone()
        loss = float(value)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss at the current iterate is {loss}")
        last: dict[str, Any] = {}
        point = loss
        if own_gradient is not None:
            step, predicted = self._precondition(own_value, own_gradient, gradient)
            point, gradient = self._judge(step, predicted, loss, gradient, last)
        if settings.global_pass:
            point = self._descend(point, gradient, last)
        flat.restore_buffers(buffers)
        return value, last | {"radius": self.radius, "loss": point}

    def _at(self, step: torch.Tensor, backward: bool) -> torch.Tensor:
        """Returns this rank's loss at the iterate plus ``step``; the parameters stay there."""
        torch.add(self._iterate, step, out=self._flat.values)
        return self._problem.evaluate(backward).mean()

    def _precondition(
        self, own_value: torch.Tensor, own_gradient: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """Runs the local phase and combines the local steps.

        Returns:
            The combined step ``(n,)`` and the predicted reduction.
        """
        settings, message = self._settings, self._flat.with_scalars
        summed = settings.norm == "l2"
        corrects = settings.consistency == "gradient"
        local = minimise(
            self._at,
            gradient=gradient if corrects else own_gradient,
            value=own_value,
            gradient_buffer=self._flat.gradient,
            correction=gradient - own_gradient,
            corrects_gradient=corrects,
            radius=self.radius / self._ranks.size if summed else self.radius,
            iterations=settings.local_iterations,
            norm=settings.norm)
        message[:-1] = local.step
        message[-1] = local.reduction
        (self._ranks.sum if summed else self._ranks.mean)(message)
        return self._flat.gradient.clone(), float(message[-1])

    def _judge(
        self,
        step: torch.Tensor,
        predicted: float,
        loss: float,
        gradient: torch.Tensor,
        last: dict[str, Any],
    ) -> tuple[float, torch.Tensor]:
        """Accepts or rejects the combined step and lets the radius follow.

        Returns:
            Loss and gradient at the point that the parameters are left at.
        """
        further = self._settings.global_pass
        value = self._at(step, further)
        if further:
            self._flat.scalars[0] = value
            self._ranks.mean(self._flat.with_scalars)
            value = self._flat.scalars[0]
        else:
            self._ranks.mean(value := value.reshape(1))
        trial = float(value)
        rho = acceptance_ratio(loss - trial, predicted)
        accepted = rho >= self._rule.accept
        last |= {"rho": rho, "accepted": accepted, "actual_reduction": loss - trial,
                 "predicted_reduction": predicted}
        self.radius = self._rule.update(self.radius, rho)
        if not accepted:
            self._flat.values.copy_(self._iterate)
            return loss, gradient
        self._iterate.copy_(self._flat.values)
        return trial, self._flat.gradient.clone() if further else gradient

    def _descend(self, loss: float, gradient: torch.Tensor, last: dict[str, Any]) -> float:
        """Does one first-order trust-region iteration on the global loss.

        Returns:
            The loss at the point that the parameters are left at.
        """
        radius = torch.full_like(gradient[0], self.radius)
        step = descent(gradient, radius, self._settings.norm)
        predicted = -torch.dot(gradient, step)
        message = self._at(step, False).reshape(1)
        self._ranks.mean(message)
        trial = float(message)
        rho = acceptance_ratio(loss - trial, float(predicted))
        accepted = rho >= self._rule.accept
        names = ("global_rho", "global_accepted") if "rho" in last else ("rho", "accepted")
        last |= dict(zip(names, (rho, accepted), strict=True))
        self.radius = self._rule.update(self.radius, rho)
        if not accepted:
            self._flat.values.copy_(self._iterate)
            return loss
        return trial

    def state_dict(self) -> dict[str, Any]:
        """The radius is all that the method remembers between outer iterations."""
        return {"radius": self.radius}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.radius = float(state["radius"])
