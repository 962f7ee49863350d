"""Evaluation over all ranks: exact sums and counts, every sample once."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from bench_apts.plugins import replicas
from bench_apts.tasks.contract import every_metric
from bench_apts.tasks.module import measured

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench_apts.plugins.contract import World
    from bench_apts.tasks.contract import Task
    from bench_apts.trial.splits import Split

_TOKENS = 2**14
"""Most targets in it that are integers, each of which has an output of one number per class."""

_FLOATS = 2**20
"""Most targets in it that are numbers."""


@dataclass(frozen=True)
class Result:
    """Sums over a whole split.

    Attributes:
        loss: Mean loss of a sample.
        values: The metrics of the task by name, ``loss`` among them.
        count: Samples evaluated; equals the split's size.
        sums: The caller's numbers, summed over ranks.
        peaks: The caller's numbers, their maximum over ranks.
        unequal: What differs between the ranks' models, for instance ``"weights"``; else empty.
    """

    loss: float
    values: dict[str, float]
    count: int
    sums: tuple[float, ...]
    peaks: tuple[float, ...]
    unequal: str = ""

    def metrics(self) -> dict[str, float]:
        """Return the metrics; those that are not finite are left out."""
        return {name: value for name, value in self.values.items() if math.isfinite(value)}


def evaluate(
    model: torch.nn.Module,
    split: Split,
    task: Task,
    world: World,
    sums: list[float] | None = None,
    peaks: list[float] | None = None,
    around: AbstractContextManager[None] | None = None,
) -> Result:
    """Evaluates a split, each rank its share, and reduces the sums over the ranks.

    Every rank does the same number of forward passes (the last ones may be smaller), because a
    sharded model communicates in each of them. After them, fingerprints of what every rank holds
    whole are compared: it is one model that is evaluated.

    Args:
        model: What the stepper gives to evaluate.
        split: The samples, the same on every rank.
        task: The suite's task.
        world: This rank's place.
        sums: Further numbers to be summed over ranks in the same collective.
        peaks: Further numbers whose maximum over ranks is wanted.
        around: Entered around the forward passes.

    Raises:
        RuntimeError: Not every sample was counted once.
    """
    share = torch.tensor_split(torch.arange(len(split)), world.size)[world.rank]
    passes = math.ceil(math.ceil(len(split) / world.size) / _chunk(split, world))
    known = every_metric(task)
    total = torch.zeros(len(known), 2, dtype=torch.float64, device=world.device)
    training = model.training
    model.eval()
    with around or nullcontext(), torch.no_grad():
        chunks = torch.tensor_split(share, passes)
        # A rank that has fewer samples than the others passes one that does not count.
        taken = [indices if len(indices) else torch.zeros(1, dtype=torch.int64)
                 for indices in chunks]
        for indices, batch in zip(chunks, split.sweep(taken), strict=True):
            found = measured(model, task, batch)
            if len(indices):
                total += found
    model.train(training)
    # What one rank holds is one model.
    prints = ([float(number) for number in replicas.model_fingerprints(model)]
              if world.size > 1 else [0.0, 0.0])
    added = torch.tensor([*total.flatten().tolist(), *(sums or [])], dtype=torch.float64)
    # The highest of x and of -x over all ranks say whether all x are equal.
    highest = torch.tensor([*prints, *(-number for number in prints), *(peaks or [])],
                           dtype=torch.float64)
    if world.size > 1:
        added, highest = added.to(world.device), highest.to(world.device)
        dist.all_reduce(added)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    values, maxima = added.tolist(), highest.tolist()
    own = {name: metric.value(values[2 * place], values[2 * place + 1])
           for place, (name, metric) in enumerate(known.items())}
    count = values[2 * len(known) - 1]  # of the loss, which is the last
    if count != len(split):
        raise RuntimeError(f"evaluated {count:.0f} samples of {len(split)}")
    unequal = [name for name, high, low in zip(
        ("weights", "buffers"), maxima[:2], maxima[2:4], strict=True) if high != -low]
    return Result(own["loss"], own, int(count), tuple(values[2 * len(known):]),
                  tuple(maxima[4:]), " and ".join(unequal))


def _chunk(split: Split, world: World) -> int:
    """Return the largest evaluation batch of one rank; long targets mean large outputs."""
    size = split.targets[0].numel()
    most = _FLOATS if split.targets.dtype.is_floating_point else _TOKENS
    return max(1, min(world.micro_batch or split.most, split.most, most // max(1, size)))
