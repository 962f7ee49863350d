"""Checks of a suite's untrained network and its loss, on one batch in this process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils._pytree import tree_map

from bench_apts.plugins.contract import Batch
from bench_apts.study.suite_checks.finding import Finding, worst
from bench_apts.study.suite_checks.splits import Split, resident
from bench_apts.tasks.contract import OutputTask, every_metric
from bench_apts.tasks.module import handed, measured, trained
from bench_apts.tasks.ready import Classification, LanguageModel, Regression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.plugins.contract import Loss
    from bench_apts.study.suite_checks.finding import Level
    from bench_apts.study.suite_checks.splits import Splits
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.problem import Problem

_SAMPLES = 64
"""Samples in the batch at most."""

_CLOSE = 1e-4
"""Relative difference that rounding in float32 may make."""

_HIGH = 2.0, 10.0
"""Multiples of chance at which the initial loss causes a warning, and fails."""

_SPREAD = 10.0, 1_000.0
"""The same for squared errors, as multiples of the targets' variance."""

_LOW = 0.5
"""Share of chance below which a network knows the answers before it is trained."""


class Untrained(NamedTuple):
    """A network as trials begin with it, in evaluation mode, and training samples."""

    problem: Problem
    module: torch.nn.Module
    loss: Loss
    batch: Batch

    def losses(self, batch: Batch, reduction: str = "none") -> torch.Tensor:
        """Return the losses of a batch's samples, ``(b,)``, or what reduces them."""
        given = handed(self.problem.task, batch)
        with torch.no_grad():
            found: torch.Tensor = self.loss(
                self.module(given.inputs), given.targets, reduction=reduction)
        return found.double()

    def outputs(self) -> int | None:
        """Return the size of the output's last dimension; None if that means nothing."""
        if not isinstance(self.problem.task, OutputTask):
            return None
        with torch.no_grad():
            output = self.module(self.batch.inputs)
        output = getattr(output, "logits", output)
        return int(output.shape[-1]) if isinstance(output, torch.Tensor) and output.dim() else None


def untrained(problem: Problem, dataset: Dataset, splits: Splits) -> Untrained:
    """Build the network; random number generators are left as they were.

    Args:
        problem: The suite's.
        dataset: Its data.
        splits: The same, divided.
    """
    size = min(len(splits.train.targets), _SAMPLES)
    some = resident(dataset, Split(splits.train.inputs[:size], splits.train.targets[:size]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, loss = trained(problem.network(dataset), problem.task)
    return Untrained(problem, module.eval(), loss, some.take(torch.arange(size)))


def initial_loss(network: Untrained, splits: Splits) -> Finding:
    """Compare the untrained network's loss with that of an answer without knowledge."""
    check, task = "initial loss", network.problem.task
    value = float(network.losses(network.batch).mean())
    if isinstance(task, Classification | LanguageModel):
        outputs = network.outputs() or 1
        chance, words, (warn, fail) = math.log(outputs), f"ln {outputs} = ", _HIGH
    elif isinstance(task, Regression):
        chance, words, (warn, fail) = float(splits.train.targets.var()), "variance ", _SPREAD
    else:
        return Finding(check, "skipped", f"{value:.4g}; what chance would have is not known of a "
                                         "task of your own")

    def found() -> Iterator[tuple[Level, str]]:
        shown = f"{value:.4g} against {words}{chance:.4g} by chance"
        if value > warn * chance:
            yield ("failed" if value > fail * chance else "warning",
                   f"{shown}: too high; make the initial weights of the last layer smaller, "
                   "normalise inputs" + (" and targets" if isinstance(task, Regression) else ""))
        elif value < _LOW * chance:
            yield ("warning", f"{shown}: too low for an untrained network; see that no input "
                              "holds the target, and that no weights are loaded")

    return worst(check, found(), f"{value:.4g}, {words}{chance:.4g} by chance")


def sample_losses(network: Untrained) -> Finding:
    """Check that losses per sample make the batch's, and do not depend on the other samples."""
    batch = network.batch
    whole = network.losses(batch)
    mean, size = float(whole.mean()), len(whole)

    def found() -> Iterator[tuple[Level, str]]:
        for reduction, expected in (("mean", mean), ("sum", mean * size)):
            value = float(network.losses(batch, reduction))
            if not math.isclose(value, expected, rel_tol=_CLOSE, abs_tol=1e-7):
                yield ("failed", f"the losses of {size} samples have the {reduction} "
                                 f"{expected:.6g}, and the loss with reduction='{reduction}' is "
                                 f"{value:.6g}; have loss() reduce what it returns for 'none'")
        parts = torch.cat([network.losses(part) for part in _parts(batch)])
        if not torch.allclose(parts, whole, rtol=10 * _CLOSE, atol=_CLOSE * abs(mean)):
            place = int((parts - whole).abs().argmax())
            yield ("failed", f"the loss of sample {place} is {float(whole[place]):.6g} in a batch "
                             f"of {size} and {float(parts[place]):.6g} in a smaller one; "
                             "it must not depend on the other samples in the batch")

    return worst("loss per sample", found(), f"the mean of {size} losses is the batch's loss")


def additive(network: Untrained) -> Iterator[tuple[Level, str]]:
    """Yield metrics that are not the same when a split is evaluated in parts."""
    problem, batch = network.problem, network.batch
    with torch.no_grad():
        whole = measured(network.module, problem.task, batch)
        parts = sum(measured(network.module, problem.task, part) for part in _parts(batch))
    assert isinstance(parts, torch.Tensor)
    for place, (name, metric) in enumerate(every_metric(problem.task).items()):
        together, apart = (metric.value(*map(float, sums[place])) for sums in (whole, parts))
        if not math.isclose(together, apart, rel_tol=10 * _CLOSE, abs_tol=1e-7):
            yield ("failed", f"{name} is {together:.6g} over {len(batch.targets)} samples at once "
                             f"and {apart:.6g} in two parts; return a sum and what it counts, so "
                             "that both can be added up")


def _parts(batch: Batch) -> list[Batch]:
    """Return a batch as two, of a quarter of its samples and of the rest."""
    cut = max(1, len(batch.targets) // 4)
    return [Batch(tree_map(lambda tensor, place=place: tensor[place], batch.inputs),
                  batch.targets[place])
            for place in (slice(cut), slice(cut, None)) if len(batch.targets[place])]
