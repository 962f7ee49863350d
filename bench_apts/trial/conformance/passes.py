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
        backwards: Backward passes: how often a gradient reached the output of a forward pass, or
            the parameter that ``settle`` found to be reached as often.
        counting: False while the harness makes passes of its own.
        settled: Whether backward passes are counted at the parameter.
    """

    __slots__ = ("_at_parameter", "backwards", "counting", "forwards", "samples", "settled")

    def __init__(self, samples: int = 0, forwards: int = 0, backwards: int = 0) -> None:
        self.samples, self.forwards, self.backwards = samples, forwards, backwards
        self.counting = True
        self.settled = False
        self._at_parameter = 0

    def reset(self) -> None:
        """Start the counts at 0."""
        self.samples = self.forwards = self.backwards = self._at_parameter = 0

    def watch(self, parameter: torch.nn.Parameter) -> None:
        """Count how often a gradient reaches a parameter, too."""
        parameter.register_hook(self._count_at_parameter)  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """Count backward passes by the watched parameter, if it was reached as often so far.

        Its hook stays, where an output needs a new one in each pass: 3 instead of 20
        microseconds. Replaced or sharded parameters and unusual passes keep the outputs' hooks.
        """
        self.settled = 0 < self.backwards == self._at_parameter

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
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def count(self, inputs: torch.Tensor | None, output: Any) -> None:
        """Count a forward pass, and each later backward pass through what it returned.

        Args:
            inputs: ``(b, …)``, the first tensor argument of the pass.
            output: A tensor, or nested lists, tuples and dictionaries of them.
        """
        self.forwards += 1
        self.samples += inputs.size(0) if inputs is not None and inputs.dim() else 1
        if self.settled:
            return
        if isinstance(output, torch.Tensor):  # nearly always; a node's hook is the cheapest one
            if (node := output.grad_fn) is not None:
                node.register_prehook(self._count_backward)
            return
        differentiable = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        if differentiable:
            torch.autograd.graph.register_multi_grad_hook(
                differentiable, self._count_backward, mode="any")

    def _count_backward(self, *gradients: Any) -> None:
        # An output of the time before ``settle`` may be passed through after it.
        if self.counting and not self.settled:
            self.backwards += 1

    def _count_at_parameter(self, gradient: torch.Tensor) -> None:
        if not self.counting:
            return
        if self.settled:
            self.backwards += 1
        else:
            self._at_parameter += 1


def instrument(model: torch.nn.Module, forward: Forward) -> Passes:
    """Have a model run ``forward`` and count its passes.

    The method is replaced on the instance, so that ``model(x)``, ``model.forward(x)`` and calls
    by wrappers all count. A deep copy of the model counts too, with its own weights. Passes in
    code that a plug-in compiles itself are not counted: a counter would be a constant there.

    Args:
        model: The model; its class stays.
        forward: ``forward(model, *inputs)``, for instance ``type(model).forward``.
    """
    passes, tensor = Passes(), torch.Tensor
    is_compiling, is_traced = torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling

    def counted(self: torch.nn.Module, *args: Any, **named: Any) -> Any:
        first = args[0] if args else None
        if type(first) is tensor and len(args) == 1 and not named:
            output = forward(self, first)
            if passes.settled and passes.counting and not is_traced():
                # The usual pass, in few instructions: each is fetched anew in each step.
                passes.forwards += 1
                shape = first.shape
                passes.samples += shape[0] if shape else 1
                return output
        else:
            output = forward(self, *args, **named)
        if passes.counting and not is_compiling():
            if not isinstance(first, torch.Tensor):
                first = next(iter(_tensors([args, named])), None)
            passes.count(first, output)
        return output

    model.forward = MethodType(counted, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained:
        passes.watch(trained[-1])  # the last ones lie next to the output
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
