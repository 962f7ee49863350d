"""The training problem as the methods see it: flat parameters, a closure, counted passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.flat import Flat

Closure = Callable[..., torch.Tensor]
"""``closure(backward: bool)``: see ``APTS``."""


class Problem:
    """Evaluates this rank's loss wherever the parameters are, and counts the passes.

    Attributes:
        flat: Parameters, gradients and buffers.
        forwards: Forward passes so far.
        backwards: Backward passes so far.
    """

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.forwards = self.backwards = 0
        self._closure: Closure | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes so far."""
        return self.forwards + self.backwards

    def pose(self, closure: Closure) -> None:
        """Takes the closure of the next evaluations."""
        self._closure = closure
        self.flat.attach()
        self.flat.adopt()

    def withdraw(self) -> None:
        """Forgets the closure, which may hold a minibatch, and shows where the step ended."""
        self._closure = None
        self.flat.publish()

    def evaluate(self, backward: bool) -> torch.Tensor:
        """Returns this rank's losses at the values, detached, in their dtype.

        Args:
            backward: Whether the gradient buffer shall hold the gradient afterwards.
        """
        if self._closure is None:
            raise RuntimeError("no closure yet: call step() first")
        self.forwards += 1
        self.backwards += backward
        flat = self.flat
        flat.publish()
        if backward:
            flat.clear()
        with torch.set_grad_enabled(backward):
            losses = self._closure(backward=backward).detach().to(flat.values.dtype)
        if backward:
            flat.collect()
        return losses
