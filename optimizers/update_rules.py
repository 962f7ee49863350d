"""Update rules that none of the required packages offers: NAdamW, DoG, MoMo-Adam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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


class DoG(torch.optim.Optimizer):
    """Distance over gradients, evaluated at an average of the iterates.

    Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, arXiv 2302.12022, equations 1 and 2. With
    the gradients g of all parameters together, a step is::

        x ← x − lr · r / √(ε + Σ‖g‖²) · g,   r = max(r₀ (1 + ‖x₀‖), max ‖x − x₀‖)

    The sum and the maximum run over all steps so far. After step t (from 1) the average of Shamir
    and Zhang (2013), which the authors evaluate, is x̄ ← x̄ + (1 + γ)/(t + γ) · (x − x̄).

    Args:
        params: Parameters, in one group.
        lr: Factor on the step; the method's is 1.
        first: r₀, which decides the first step alone.
        gamma: γ; the larger, the fewer of the last iterates count.
    """

    _EPS = 1e-8

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, first: float, gamma: float
    ) -> None:
        super().__init__(params, {
            "lr": lr, "first": first, "gamma": gamma, "steps": 0, "at_average": False})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold."""
        (group,) = self.param_groups
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients = [p.grad for p in weights if p.grad is not None]
        group["steps"] += 1
        for p in weights:
            if not self.state[p]:
                self.state[p] |= {"start": p.clone(), "average": p.clone()}
        starts, averages = ([self.state[p][key] for p in weights] for key in ("start", "average"))
        overall = self.state[weights[0]]
        if "squares" not in overall:
            overall |= {"squares": torch.zeros_like(_norm(gradients)),
                        "distance": group["first"] * (1 + _norm(starts))}
        overall["squares"] += _norm(gradients) ** 2
        torch.maximum(overall["distance"], _norm(torch._foreach_sub(weights, starts)),
                      out=overall["distance"])
        length = overall["distance"] / (overall["squares"] + self._EPS).sqrt()
        torch._foreach_sub_(weights, torch._foreach_mul(gradients, group["lr"] * length))
        torch._foreach_lerp_(
            averages, weights, (1 + group["gamma"]) / (group["steps"] + group["gamma"]))

    def eval(self) -> None:
        """Put the average into the parameters, and keep aside what they held."""
        self._swap(at_average=True)

    def train(self) -> None:
        """Put the last iterate back."""
        self._swap(at_average=False)

    @torch.no_grad()
    def _swap(self, *, at_average: bool) -> None:
        (group,) = self.param_groups
        if group["at_average"] == at_average:
            return
        group["at_average"] = at_average
        for p, state in self.state.items():
            held = p.clone()
            p.copy_(state["average"])
            state["average"].copy_(held)


class MomoAdam(torch.optim.Optimizer):
    """Adam whose step is limited by a model of the loss.

    Schaipp, Ohana, Eickenberg, Defazio and Gower, MoMo, arXiv 2305.07583, algorithm "MoMo-Adam".
    At the weights x, with the loss f, its gradient g, Adam's moments m and v, the exponential
    averages F of f and c of ⟨g, x⟩ with decay β₁, and D = ε + √(v / (1 − β₂ᵗ))::

        τ = min(lr / b, [(1 + lr·λ)(F − c − b·f*) + ⟨m, x⟩]₊ / Σ m²/D),   b = 1 − β₁ᵗ
        x ← (x − τ m/D) / (1 + lr·λ)

    τ is smaller than Adam's step where this would lead below f*, by the averaged linear models.

    Args:
        params: Parameters, in one group.
        lr: Largest step.
        betas: β₁ and β₂, the decays of the first and the second moment.
        eps: ε.
        weight_decay: λ.
        lower_bound: f*, which no loss can be below.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lower_bound: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "steps": 0,
                                  "weight_decay": weight_decay, "lower_bound": lower_bound})

    @torch.no_grad()
    def step(self, loss: torch.Tensor) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold.

        Args:
            loss: The loss that they are the gradient of: where ranks average gradients, the
                average of their losses, or replicas drift apart.
        """
        (group,) = self.param_groups
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients = [p.grad for p in weights if p.grad is not None]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        decay = 1 + lr * group["weight_decay"]
        for p in weights:
            if not self.state[p]:
                self.state[p] |= {"exp_avg": torch.zeros_like(p),
                                  "exp_avg_sq": torch.zeros_like(p)}
        first, second = (
            [self.state[p][key] for p in weights] for key in ("exp_avg", "exp_avg_sq"))
        overall = self.state[weights[0]]
        if "loss" not in overall:
            overall |= {"loss": torch.zeros_like(_norm(weights)),
                        "product": torch.zeros_like(_norm(weights))}
        group["steps"] += 1
        overall["loss"].lerp_(loss.to(overall["loss"].dtype), 1 - beta1)
        overall["product"].lerp_(_product(gradients, weights), 1 - beta1)
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        scales = torch._foreach_sqrt(second)
        torch._foreach_div_(scales, math.sqrt(1 - beta2 ** group["steps"]))
        torch._foreach_add_(scales, group["eps"])
        directions = torch._foreach_div(first, scales)
        corrected = 1 - beta1 ** group["steps"]
        above = (decay * (overall["loss"] - overall["product"] - corrected * group["lower_bound"])
                 + _product(first, weights))
        square = _product(first, directions)
        length = torch.where(square > 0, above.clamp(min=0) / square, 0).clamp(max=lr / corrected)
        torch._foreach_sub_(weights, torch._foreach_mul(directions, length))
        torch._foreach_div_(weights, decay)


def _norm(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the Euclidean norm of all tensors together."""
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm


def _product(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the inner product of two lists of tensors."""
    return torch.stack([
        (one * other).sum() for one, other in zip(first, second, strict=True)]).sum()
