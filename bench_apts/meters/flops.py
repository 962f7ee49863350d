"""Floating-point operations: counted once for one sample, multiplied by the samples passed."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from bench_apts.plugins.optimizer_contract import Batch, Loss

SAMPLES = 2
"""BatchNorm refuses to train on a single value of each channel."""


class Flops(NamedTuple):
    """Operations of one sample: a multiplication and an addition count two.

    Attributes:
        forward: Of a forward pass, loss included.
        backward: Of the backward pass alone; nothing is propagated to the inputs.
    """

    forward: float
    backward: float

    def total(self, samples: int, forwards: int, backwards: int) -> float:
        """Return the operations of all ranks together.

        Args:
            samples: Samples of all ranks, counted at each forward pass.
            forwards: Forward passes of one rank.
            backwards: Its backward passes, each taken to be as large as a forward pass.
        """
        share = backwards / forwards if forwards else 0.0
        return samples * (self.forward + share * self.backward)


class _Whole(nullcontext[None]):
    """Stands for torch's tracker of modules: all operations belong to the whole."""

    parents = frozenset({"Global"})


def per_sample(model: torch.nn.Module, loss: Loss, batch: Batch) -> Flops | None:
    """Count matrix products, convolutions and attention, as ``torch.utils.flop_counter`` does.

    Elementwise operations, normalisation and optimizer steps do not count. The count is made on a
    twin of ``model`` without storage (device ``meta``): nothing is computed, so that weights,
    buffers, random state and peak memory stay as they are.

    Args:
        model: The plain model, on any device, before a backend wraps or shards it and before
            ``trained_model.instrument`` replaces its forward pass.
        loss: ``loss(output, targets)``.
        batch: ``SAMPLES`` samples as a stepper gets them; only shapes and dtypes matter.

    Returns:
        The operations; None where the model or its task needs numbers to be run.
    """
    import torch
    from torch.utils._pytree import tree_map
    from torch.utils.flop_counter import FlopCounterMode

    bare: dict[int, torch.Tensor] = {
        id(p): torch.nn.Parameter(p.detach().to("meta"), p.requires_grad)
        for p in model.parameters()}
    bare |= {id(b): b.to("meta") for b in model.buffers()}
    twin = copy.deepcopy(model, bare).train()
    shapes = tree_map(lambda tensor: tensor.to("meta"), batch)
    try:
        forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
        # Counts by module need hooks, with which a forward pass cannot differentiate.
        for counter in (forward, backward):
            counter.mod_tracker = _Whole()  # type: ignore[assignment]
        with forward, torch.enable_grad():
            value = loss(twin(shapes.inputs), shapes.targets)
        with backward:
            value.backward()
    except RuntimeError:
        # What cannot run on the meta device, often as the subclass NotImplementedError: the
        # operations of this network are then not counted.
        return None
    return Flops(forward.get_total_flops() / SAMPLES, backward.get_total_flops() / SAMPLES)
