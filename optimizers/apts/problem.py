"""The training problem as the methods see it: flat parameters, a closure, counted passes."""

from __future__ import annotations

import inspect
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
        self._fault: ValueError | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes so far."""
        return self.forwards + self.backwards

    def pose(self, closure: Closure) -> None:
        """Takes the closure of the next evaluations, and parameters that others have changed.

        Raises:
            TypeError: It cannot be called.
        """
        if not callable(closure):
            raise TypeError(_SIGNATURE)
        self._closure = closure
        try:
            self.flat.attach()
        except ValueError as error:  # of this rank, perhaps: raised where all ranks learn of it
            self._fault = error

    def withdraw(self) -> None:
        """Forgets the closure, which may hold a minibatch, and shows where the step ended."""
        self._closure = self._fault = None
        self.flat.publish()

    def evaluate(self, backward: bool) -> torch.Tensor:
        """Returns this rank's losses at the values, detached, in their dtype: ``(b,)`` or ``()``.

        Args:
            backward: Whether the gradient buffer shall hold the gradient afterwards.

        Raises:
            ValueError: The model was converted, or the losses have another shape.
            TypeError: The closure does not return a tensor, or takes no ``backward``.
            RuntimeError: The gradients of the closure's backward pass went elsewhere.
        """
        if self._closure is None:
            raise RuntimeError("no closure yet: call step() first")
        if self._fault is not None:
            raise self._fault
        self.forwards += 1
        self.backwards += backward
        flat = self.flat
        flat.publish()
        if backward:
            flat.clear()
        try:
            with torch.set_grad_enabled(backward):
                losses = _losses(self._closure, backward)
        finally:
            reached = flat.collect(backward)
        if backward and not reached and losses.numel() and not flat.gradient.any():
            raise RuntimeError(_UNREACHED)
        return losses.detach().to(flat.values)


_SIGNATURE = ("step() takes a closure(backward=True) that leaves out the backward pass when it is "
              "called with backward=False")

_UNREACHED = (
    "the closure's backward pass has reached none of the parameters of this APTS: with "
    "backward=True it must call backward() on the loss of the model that they belong to; where "
    "the model holds other parameters now (load_state_dict(assign=True), weight_norm, a copy), "
    "make a new APTS")


def _losses(closure: Closure, backward: bool) -> torch.Tensor:
    """Calls the closure and checks what it returns."""
    try:
        losses: object = closure(backward=backward)
    except TypeError as error:
        try:
            inspect.signature(closure).bind(backward=backward)
        except TypeError:
            raise TypeError(_SIGNATURE) from error
        raise
    if not isinstance(losses, torch.Tensor):
        raise TypeError(f"the closure returned {type(losses).__name__}, not a tensor: this rank's "
                        "losses, one per sample, or their mean")
    if losses.dim() > 1:
        raise ValueError(f"the closure returned losses of the shape {tuple(losses.shape)}: one "
                         "per sample, (b,), or their mean was expected")
    return losses
