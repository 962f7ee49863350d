"""Forward and backward passes of the model as the harness counts them, whatever is reported."""

from __future__ import annotations

from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Forward = Callable[..., Any]


class Passes:
    """Counts of one rank since the model was instrumented.

    Attributes:
        samples: Samples that went through forward passes; a sample passed twice counts twice.
        forwards: Forward passes.
        backwards: Backward passes: how often a gradient reached the output of a forward pass.
    """

    def __init__(self, samples: int = 0, forwards: int = 0, backwards: int = 0) -> None:
        self.samples, self.forwards, self.backwards = samples, forwards, backwards
        self._counting = True

    def reset(self) -> None:
        """Start the counts at 0."""
        self.samples = self.forwards = self.backwards = 0

    def copy(self) -> Passes:
        """Return the counts of now."""
        return Passes(self.samples, self.forwards, self.backwards)

    def since(self, before: Passes) -> Passes:
        """Return what was counted since ``before`` was copied."""
        return Passes(self.samples - before.samples, self.forwards - before.forwards,
                      self.backwards - before.backwards)

    def state(self) -> list[int]:
        """Return the counts as plain values."""
        return [self.samples, self.forwards, self.backwards]

    def resume(self, state: list[int]) -> None:
        """Go on from the counts that ``state`` returned."""
        self.samples, self.forwards, self.backwards = state

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the harness's own passes in this block out of the counts."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def count(self, inputs: torch.Tensor | None, output: Any) -> None:
        """Count a forward pass, and each later backward pass through what it returned.

        Args:
            inputs: ``(b, …)``, the first tensor argument of the pass.
            output: A tensor, or nested lists, tuples and dictionaries of them.
        """
        if not self._counting:
            return
        self.forwards += 1
        self.samples += inputs.size(0) if inputs is not None and inputs.dim() else 1
        if isinstance(output, torch.Tensor):  # nearly always; a node's hook is the cheapest one
            if output.grad_fn is not None:
                output.grad_fn.register_prehook(self._count_backward)
            return
        differentiable = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        if differentiable:
            torch.autograd.graph.register_multi_grad_hook(
                differentiable, self._count_backward, mode="any")

    def _count_backward(self, *gradients: Any) -> None:
        if self._counting:
            self.backwards += 1


def instrument(model: torch.nn.Module, forward: Forward) -> Passes:
    """Have a model run ``forward`` and count its passes.

    The method is replaced on the instance, so that ``model(x)``, ``model.forward(x)`` and calls
    by wrappers all count. A deep copy of the model counts too, with its own weights. Passes in
    code that a plug-in compiles itself are not counted: a counter would be a constant there.

    Args:
        model: The model; its class stays.
        forward: ``forward(model, *inputs)``, for instance ``type(model).forward``.
    """
    passes = Passes()

    def counted(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if not torch.compiler.is_compiling():
            first = args[0] if args else None
            if not isinstance(first, torch.Tensor):
                first = next(iter(_tensors([args, kwargs])), None)
            passes.count(first, output)
        return output

    model.forward = MethodType(counted, model)
    return passes


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for item in value for tensor in _tensors(item)]
