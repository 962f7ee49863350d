"""Adam's moments: the direction of a rank's local steps, and how it learns from the others'."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.flat_problem import FlatBuffers

_EPSILON = 1e-8
"""ε of Adam's direction."""

_TILE = 1 << 15
"""Numbers that all operations are done on before the next ones: they stay in the cache."""


class Moments:
    """The first and second moments m and v of the gradients, each of n floats.

    Args:
        flat: Whose values are moved along −m̂/(√v̂ + ε), by the gradients that it holds.
        beta1: β₁ of the first moment.
        beta2: β₂ of the second.
    """

    def __init__(self, flat: FlatBuffers, beta1: float, beta2: float) -> None:
        self._flat, self._betas = flat, (beta1, beta2)
        self._first, self._second = (torch.zeros_like(flat.values) for _ in range(2))
        self._values, self._firsts, self._seconds = (
            flat.split(vector) for vector in (flat.values, self._first, self._second))
        self._count = self._first.new_zeros((), dtype=torch.float32)  # for the kernel
        self._counts = [self._count] * len(self._values)
        self._steps = 0

    def step(self, length: float) -> None:
        """Count the gradients in and move the values by ``length``·m̂/(√v̂ + ε) against them."""
        self._adam(self._flat.gradients, length)

    def _adam(self, gradients: list[torch.Tensor], length: float) -> None:
        """Do Adam's step on the parts of the vectors that belong to the gradients."""
        beta1, beta2 = self._betas
        self._steps += 1
        self._count.fill_(self._steps)
        if not gradients:
            return  # the kernel refuses an empty list
        # What torch.optim.Adam(fused=True) calls, without its groups and checks, which cost as
        # much as the step of a small network.
        torch._fused_adam_(
            self._values, gradients, self._firsts, self._seconds, [], self._counts,
            lr=length, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=_EPSILON, amsgrad=False,
            maximize=False)

    def share(self, travel: float, sharing: float) -> None:
        """Move the first moment towards the mean over the ranks, at no cost on the wire.

        A local step is −lr·m̂/(√v̂ + ε), so the mean displacement s of a round over Σ lr, times
        √v̂ + ε, is about −m̂ averaged over its steps and the ranks. The payload holds s.

        Args:
            travel: Σ lr of the round.
            sharing: Share of m that is replaced.
        """
        if not (self._steps and travel):
            return
        beta1, beta2 = self._betas
        correction = math.sqrt(1 - beta2**self._steps)
        # m = (1 − β₁ᵗ) m̂, as Adam holds it.
        scale = -(1 - beta1**self._steps) / travel
        vectors = self._first, self._second, self._flat.payload
        for first, second, moved in zip(*(torch.split(v, _TILE) for v in vectors), strict=True):
            # √v̂ + ε, with v̂ = v/(1 − β₂ᵗ).
            spread = second.sqrt().div_(correction).add_(_EPSILON)
            first.mul_(1 - sharing).add_(spread.mul_(moved), alpha=sharing * scale)

    def forget(self) -> None:
        """Clear the first moment, and what is not finite in the second: it would spoil all."""
        self._first.zero_()
        self._second.nan_to_num_(0.0, 0.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the moments, and how many gradients they have counted in."""
        return {"first": self._first.clone(), "second": self._second.clone(),
                "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps = int(state["steps"])
