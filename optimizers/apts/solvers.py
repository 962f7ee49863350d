"""Models of the loss and the steps that minimise them over a ball: first order and TR-Adam.

The third one, limited-memory SR1, has a module of its own. None of them waits for the device,
but for what ``torch.linalg.eigh`` does on CUDA.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Solver(Protocol):
    """A model of the loss around a point, and its (approximate) minimiser over a ball.

    Attributes:
        learns: Whether it wants pairs of steps and gradients.
    """

    learns: bool

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """Returns p ``(n,)`` with ‖p‖ ≤ radius for the gradient ``(n,)`` at the point."""

    def reduction(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Returns by how much the model falls along any step, a scalar on the device."""

    def learn(self, step: torch.Tensor, gradient: torch.Tensor, before: torch.Tensor) -> None:
        """Takes in a step with the gradients at its end and at its start, of one minibatch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of what it remembers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""


def descent(gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
    """Returns the minimiser of the linear model ⟨gradient, p⟩ over ‖p‖ ≤ radius.

    −radius·g/‖g‖ in the 2-norm, −radius·sign(g) in the ∞-norm; zero where the gradient is zero.
    """
    if norm == "linf":
        return gradient.sign() * -radius
    length = torch.linalg.vector_norm(gradient)
    # First the unit vector: radius / tiny would overflow.
    unit: torch.Tensor = gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny)
    return unit.mul_(-radius)


class FirstOrder:
    """The linear model, which remembers nothing."""

    learns = False

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """See ``descent``."""
        return descent(gradient, radius, norm)

    def reduction(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Returns −⟨gradient, step⟩."""
        return -torch.dot(gradient, step)

    def learn(self, step: torch.Tensor, gradient: torch.Tensor, before: torch.Tensor) -> None:
        """Learns nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back nothing."""


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
        """Returns Adam's step, cut to the radius."""
        beta1, beta2 = self._betas
        self._count += 1
        # A gradient that is not finite would poison the moments for ever; its step is refused.
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
        """Returns copies of the moments."""
        return {"first": self._first.clone(), "second": self._second.clone(),
                "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._count = int(state["count"])


def make(name: str, like: torch.Tensor, memory: int) -> Solver:
    """Makes the solver ``name``, one of ``SOLVERS``, for vectors like ``like``."""
    if name == "l-sr1":
        from bench_apts.optimizers.apts.lsr1 import LSR1

        return LSR1(like, memory)
    return TRAdam(like) if name == "tr-adam" else FirstOrder()
