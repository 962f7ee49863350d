"""Evaluation over all ranks: exact sums and counts, every sample once."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from bench_apts.conformance import replicas

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench_apts.contract import Loss, World
    from bench_apts.loader import Resident

_CHUNK = 1000
"""Largest evaluation batch of one rank."""


@dataclass(frozen=True)
class Result:
    """Sums over a whole split.

    Attributes:
        correct: Samples classified correctly.
        loss_sum: Sum of the samples' losses.
        count: Samples evaluated; equals the split's size.
        sums: The caller's numbers, summed over ranks.
        peaks: The caller's numbers, their maximum over ranks.
        unequal: What differs between the ranks' models, for instance ``"weights"``; else empty.
    """

    correct: int
    loss_sum: float
    count: int
    sums: tuple[float, ...]
    peaks: tuple[float, ...]
    unequal: str = ""

    @property
    def loss(self) -> float:
        """Mean loss of a sample."""
        return self.loss_sum / self.count

    def metrics(self) -> dict[str, float]:
        """Returns accuracy and loss; a loss that is not finite is left out."""
        metrics = {"accuracy": self.correct / self.count}
        return metrics | {"loss": self.loss} if math.isfinite(self.loss) else metrics


def evaluate(
    model: torch.nn.Module,
    split: Resident,
    loss: Loss,
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
        loss: The suite's loss.
        world: This rank's place.
        sums: Further numbers to be summed over ranks in the same collective.
        peaks: Further numbers whose maximum over ranks is wanted.
        around: Entered around the forward passes.

    Raises:
        RuntimeError: Not every sample was counted once.
    """
    share = torch.tensor_split(torch.arange(len(split)), world.size)[world.rank]
    passes = math.ceil(math.ceil(len(split) / world.size) / _CHUNK)
    total = torch.zeros(3, dtype=torch.float64, device=world.device)
    training = model.training
    model.eval()
    with around or nullcontext(), torch.no_grad():
        for indices in torch.tensor_split(share, passes):
            batch = split.take(indices.to(world.device))
            output = model(batch.inputs)
            correct = (output.argmax(dim=1) == batch.targets).sum()
            total += torch.stack([
                correct.double(),
                loss(output, batch.targets, reduction="sum").double(),
                torch.tensor(len(indices), dtype=torch.float64, device=world.device),
            ])
    model.train(training)
    prints = [float(number) for number in replicas.model_fingerprints(model)]
    added = torch.tensor([*total.tolist(), *(sums or [])], dtype=torch.float64)
    # The highest of x and of -x over all ranks say whether all x are equal.
    highest = torch.tensor([*prints, *(-number for number in prints), *(peaks or [])],
                           dtype=torch.float64)
    if world.size > 1:
        added, highest = added.to(world.device), highest.to(world.device)
        dist.all_reduce(added)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    values, maxima = added.tolist(), highest.tolist()
    if values[2] != len(split):
        raise RuntimeError(f"evaluated {values[2]:.0f} samples of {len(split)}")
    unequal = [name for name, high, low in zip(
        ("weights", "buffers"), maxima[:2], maxima[2:4], strict=True) if high != -low]
    return Result(int(values[0]), values[1], int(values[2]), tuple(values[3:]),
                  tuple(maxima[4:]), " and ".join(unequal))
