"""Evaluation over all ranks, what the steps before it reported, and whether the trial ends there.

Sums and counts are exact, every sample counts once.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist

from bench_apts.plugins import replicas
from bench_apts.stats.trial_costs import find_bracket
from bench_apts.tasks.loss_module import measured
from bench_apts.tasks.task import every_metric

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from bench_apts.core.records import Eval, Status
    from bench_apts.core.spec import Suite
    from bench_apts.plugins.optimizer_contract import World
    from bench_apts.tasks.task import Task
    from bench_apts.trial.pruning import TrialPruner
    from bench_apts.trial.trial_data import Split

_MAX_TOKENS, _MAX_NUMBERS = 2**14, 2**20
"""Most targets in a batch: integers, each with an output of one number per class; others."""

_DIVERGED = 10.0
"""A loss above this many times the initial one counts as diverged (docs/measurement.md, 1)."""

_STATUSES: tuple[Status | None, ...] = (None, "hit", "miss", "timeout", "diverged", "pruned")
"""What ``end_status`` may return; the first stands for the least number."""


class RankSums(NamedTuple):
    """Numbers of one rank that an evaluation adds up over all; the energy only of GPUs."""

    loss: float
    steps: float
    made_samples: float
    counted_samples: float
    cpu_s: float
    energy_j: float = math.nan

    def mean_loss(self) -> float | None:
        """Return the mean loss of a step; None without steps, or if it is not finite."""
        mean = self.loss / self.steps if self.steps else math.nan
        return mean if math.isfinite(mean) else None


class RankPeaks(NamedTuple):
    """Numbers of one rank of which an evaluation finds the largest."""

    cpu_s: float
    memory: float
    tensors: float
    forwards: float
    backwards: float
    counted_forwards: float
    counted_backwards: float
    missing_forwards: float
    missing_backwards: float


@dataclass(frozen=True)
class SplitResult:
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
    model: torch.nn.Module, split: Split, task: Task, world: World, sums: Sequence[float] = (),
    peaks: Sequence[float] = (), around: AbstractContextManager[None] | None = None,
) -> SplitResult:
    """Evaluate a split, each rank its share, and reduce the sums over the ranks.

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
    # A single rank holds a single model.
    prints = ([float(number) for number in replicas.model_fingerprints(model)]
              if world.size > 1 else [0.0, 0.0])
    added = torch.tensor([*total.flatten().tolist(), *sums], dtype=torch.float64)
    # The highest of x and of -x over all ranks say whether all x are equal.
    highest = torch.tensor([*prints, *(-number for number in prints), *peaks],
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
    return SplitResult(own["loss"], own, int(count), tuple(values[2 * len(known):]),
                       tuple(maxima[4:]), " and ".join(unequal))


def _chunk(split: Split, world: World) -> int:
    """Return the largest evaluation batch of one rank; long targets mean large outputs."""
    size = split.targets[0].numel()
    most = _MAX_NUMBERS if split.targets.dtype.is_floating_point else _MAX_TOKENS
    return max(1, min(world.micro_batch or split.most, split.most, most // max(1, size)))


def end_status(
    suite: Suite, evals: Sequence[Eval], loss: float, loss_sum: float, watch: TrialPruner | None
) -> Status | None:
    """Return how the trial ends after its latest evaluation, or None if it goes on.

    Rank 0 decides, by its clock: the others learn it from ``status_of_rank_0``.

    Args:
        suite: With the budget and the target.
        evals: All evaluations so far.
        loss: The validation loss of the latest one, which may not be finite.
        loss_sum: Sum of the training losses since the one before, of all ranks.
        watch: May give up a tuning trial early; only rank 0 has one.
    """
    budget, target, last = suite.budget, suite.target, evals[-1]
    hit = find_bracket([e.validation.get(target.metric, math.nan) for e in evals],
                       target.reached, suite.evaluation.consecutive)
    initial = evals[0].validation.get("loss", math.nan)
    if not math.isfinite(loss_sum) or not loss <= initial + (_DIVERGED - 1) * abs(initial):
        return "diverged"
    if last.samples >= budget.samples:
        return "hit" if hit else "miss"
    if last.train_s >= budget.seconds:
        return "hit" if hit else "timeout"
    if watch and last.step and not hit and watch.hopeless(
            len(evals) - 1, target.signed(last.validation)):
        return "pruned"
    return None


def status_of_rank_0(status: Status | None, world: World) -> Status | None:
    """Return rank 0's status on every rank; none returns before all ranks have called it.

    Args:
        status: What ``end_status`` returned; that of other ranks does not count.
        world: This rank's place.
    """
    if world.size == 1:
        return status
    number = _STATUSES.index(status) if world.rank == 0 else 0
    highest = torch.tensor(number, device=world.device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return _STATUSES[int(highest)]
