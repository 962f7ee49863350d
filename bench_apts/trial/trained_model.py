"""The network of a trial on its device, its weights' fingerprint, and its passes as counted."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

from bench_apts.meters import flops
from bench_apts.plugins import micro_batches
from bench_apts.tasks import loss_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.core.spec import Trial
    from bench_apts.plugins.optimizer_contract import Batch
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.suite_problem import SuiteProblem

    Forward = Callable[..., Any]


class TrialNetwork:
    """The network of a trial as a backend gets it: built under the trial's seed, passes counted.

    Args:
        problem: The suite's.
        dataset: Its data.
        batch: ``flops.SAMPLES`` training samples.
        trial: The trial.
        device: Where the network is trained.

    Attributes:
        model: The network, or the module that computes the task's losses with it.
        loss: Reduces what the model returns.
        passes: Counts the model's passes.
        initial: Hash of the initial weights.
        parameters: How many numbers the parameters have.
        flops: Operations of a sample; None where they cannot be counted.
    """

    def __init__(self, problem: SuiteProblem, dataset: Dataset, batch: Batch, trial: Trial,
                 device: torch.device) -> None:
        suite = trial.suite
        torch.manual_seed(trial.seeds.init)
        model, self.loss = loss_module.trained(
            problem.network(dataset), problem.task, suite.loss_scale or 1.0)
        self.initial = weights_sha256(model)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.flops = flops.per_sample(
            model, self.loss, loss_module.model_inputs(problem.task, batch))
        self.model = model.to(device).to(memory_format=getattr(torch, suite.memory_format))
        forward = in_precision(type(model).forward, device, suite.precision)
        if suite.compile:
            forward = torch.compile(forward)
        if suite.micro_batch:
            forward = micro_batches.Chunked(forward, suite.micro_batch)
        self.passes = instrument(self.model, forward)


def weights_sha256(model: torch.nn.Module) -> str | None:
    """Hash the parameters' names, shapes and bytes in their order; buffers do not count.

    Returns:
        Hexadecimal digits, or None where this rank holds parts of parameters (ZeRO-3, FSDP2).
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0 or hasattr(parameter, "to_local"):
            return None
        total.update(f"{name.removeprefix('module.')}{tuple(parameter.shape)}".encode())
        total.update(parameter.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()


def in_precision(forward: Forward, device: torch.device, precision: str) -> Forward:
    """Return a forward pass that runs in bf16 where the suite says so; outputs are float32.

    Args:
        forward: ``forward(model, *inputs)``.
        device: Where the model lies.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    if precision == "fp32":
        return forward

    def mixed(model: torch.nn.Module, *inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            output = forward(model, *inputs, **named)
        return tree_map_only(torch.Tensor, _float, output)

    return mixed


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


class PassCounter:
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

    def since(self, before: Sequence[int]) -> PassCounter:
        """Return what was counted since ``state`` returned ``before``."""
        samples, forwards, backwards = before
        return PassCounter(self.samples - samples, self.forwards - forwards,
                           self.backwards - backwards)

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


def instrument(model: torch.nn.Module, forward: Forward) -> PassCounter:
    """Have a model run ``forward`` and count its passes.

    The method is replaced on the instance, so that ``model(x)``, ``model.forward(x)`` and calls
    by wrappers all count. A deep copy of the model counts too, with its own weights. Passes in
    code that a plug-in compiles itself are not counted: a counter would be a constant there.

    Args:
        model: The model; its class stays.
        forward: ``forward(model, *inputs)``, for instance ``type(model).forward``.
    """
    passes, tensor = PassCounter(), torch.Tensor
    is_compiling, is_traced = torch.compiler.is_compiling, torch.compiler.is_dynamo_compiling

    def counted(self: torch.nn.Module, *args: Any, **named: Any) -> Any:
        first = args[0] if args else None
        if type(first) is tensor and len(args) == 1 and not named:
            output = forward(self, first)
            if passes.settled and passes.counting and not is_traced():
                # The usual pass, in few instructions: each step has to fetch them again.
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
