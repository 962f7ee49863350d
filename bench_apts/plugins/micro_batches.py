"""Micro-batches: a rank puts its share of a minibatch through the network in parts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten
from torch.utils.checkpoint import checkpoint

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from bench_apts.plugins.optimizer_contract import Batch


def count(samples: int, most: int) -> int:
    """Return into how many parts samples are cut, of at most ``most`` each; 0 means no limit."""
    return max(1, math.ceil(samples / most)) if most else 1


def parts(batch: Batch, most: int) -> list[tuple[Batch, float]]:
    """Cut a rank's share of a minibatch into parts of nearly equal size.

    Args:
        batch: All its tensors have samples first.
        most: Samples in a part at most, ``World.micro_batch``; 0 for all.

    Returns:
        Each part with its share of the samples. The loss of the batch is the sum of the parts'
        mean losses, each times its share; so is its gradient.
    """
    samples = len(batch.targets)
    if count(samples, most) == 1:
        return [(batch, 1.0)]
    return [(_cut(batch, samples, begin, end), (end - begin) / samples)
            for begin, end in _spans(samples, most)]


def backward(
    model: torch.nn.Module,
    loss: Callable[..., Any],
    batch: Batch,
    most: int,
    hold: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """Add the gradient of a batch's mean loss to ``p.grad``, part by part.

    Args:
        model: The network.
        loss: The suite's loss.
        batch: This rank's share of a minibatch.
        most: Samples in a part at most, ``World.micro_batch``; 0 for all.
        hold: Makes the context of all parts but the last, for instance ``no_sync`` of
            DistributedDataParallel, which then sends all parts' gradients together.

    Returns:
        The mean loss, a scalar, detached.
    """
    *others, final = parts(batch, most)
    losses = []
    with hold() if others else nullcontext():
        losses += [_backward(model, loss, *part) for part in others]
    losses.append(_backward(model, loss, *final))
    return torch.stack(losses).sum() if others else losses[0]


def _backward(
    model: torch.nn.Module, loss: Callable[..., Any], part: Batch, share: float
) -> torch.Tensor:
    value = loss(model(part.inputs), part.targets)
    if share != 1:
        value = value * share
    value.backward()
    found: torch.Tensor = value.detach()
    return found


class Chunked:
    """A forward pass that computes its output in parts, of which one at a time is kept.

    Each part is computed again when its gradient is wanted, with the same random numbers and
    without counting twice in buffers, so that activations of one part exist at a time. Outputs
    and gradients are those of the whole batch up to rounding, but for layers such as BatchNorm
    that let samples depend on one another. Batches that fit pass as they are.

    Args:
        forward: ``forward(model, *inputs)``, whose outputs have samples first.
        most: Samples in a part at most.
    """

    def __init__(self, forward: Callable[..., Any], most: int) -> None:
        self._forward, self._most = forward, most

    def __call__(self, model: torch.nn.Module, *inputs: Any, **named: Any) -> Any:
        """Return what the forward pass returns for all samples.

        Raises:
            UserError: The output is not made of tensors with samples first.
        """
        first = next((leaf for leaf in tree_leaves((inputs, named))
                      if isinstance(leaf, torch.Tensor) and leaf.dim()), None)
        samples = 1 if first is None else len(first)
        spans = _spans(samples, self._most)
        if len(spans) == 1:
            return self._forward(model, *inputs, **named)
        outputs = []
        for begin, end in spans:
            some, others = _cut((inputs, named), samples, begin, end)
            if torch.is_grad_enabled():
                outputs.append(checkpoint(
                    self._forward, model, *some, use_reentrant=False,
                    context_fn=lambda: (nullcontext(), _BuffersKept(model)), **others))
            else:
                outputs.append(self._forward(model, *some, **others))
        return _joined(outputs, [end - begin for begin, end in spans])


def _spans(samples: int, most: int) -> list[tuple[int, int]]:
    """Return first sample and end of each part."""
    # Sizes differ by one at most: a last part of a single sample could not pass BatchNorm.
    number = count(samples, most)
    sizes = [samples // number + (place < samples % number) for place in range(number)]
    return list(pairwise(accumulate(sizes, initial=0)))


def _cut(value: Any, samples: int, begin: int, end: int) -> Any:
    """Return some of the samples of all tensors, in nested values, that have as many."""
    def some(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[begin:end] if tensor.dim() and len(tensor) == samples else tensor

    return tree_map_only(torch.Tensor, some, value)


def _joined(outputs: list[Any], sizes: list[int]) -> Any:
    """Put the outputs of all parts together."""
    leaves, spec = tree_flatten(outputs[0])
    columns = zip(*(tree_leaves(output) for output in outputs), strict=True)
    joined = []
    for column in columns:
        if not all(isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == size
                   for leaf, size in zip(column, sizes, strict=True)):
            raise UserError("key 'micro_batch': the network's output cannot be put together from "
                            "parts: it must be tensors with samples first, also in tuples, lists "
                            "and dictionaries")
        joined.append(torch.cat(column))
    return tree_unflatten(joined, spec) if leaves else outputs[0]


class _BuffersKept:
    """Has a pass that is computed again, perhaps more than once, change copies of the buffers."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._kept = [(module._buffers, name, buffer) for module in model.modules()
                      for name, buffer in module._buffers.items() if buffer is not None]

    def __enter__(self) -> None:
        for held, name, buffer in self._kept:
            held[name] = buffer.clone()

    def __exit__(self, *error: object) -> None:
        for held, name, buffer in self._kept:
            held[name] = buffer
