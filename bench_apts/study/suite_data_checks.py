"""Checks of a suite's data: overlap of splits, classes, labels, normalisation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bench_apts.study.check_findings import CheckFinding, worst_finding
from bench_apts.suites import data
from bench_apts.suites.readers.split_checks import digests
from bench_apts.tasks.named_tasks import IGNORED, Classification, LanguageModel, Regression
from bench_apts.trial.loader import Conversion, Resident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench_apts.study.check_findings import Level
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.suite_problem import SuiteProblem

_TOLERATED, _TOLERATED_IN_TEXT = 0.01, 0.5
"""Share of a split that may occur in another one before the check fails; short texts recur."""

_UNLIKE = 0.1
"""Share of the samples that would have to change class for two splits to be alike.

In small splits chance makes more: the root of classes by samples.
"""

_SAMPLES = 4_096
"""Training samples whose normalised inputs are looked at."""

_SPREAD = 0.05, 5.0
"""Standard deviation of normalised inputs that causes no warning."""

_MAX_MEAN, _MAX_RMS = 3.0, 10.0
"""Mean of normalised inputs, and root mean square of a feature, that cause no warning."""

_GROSSLY = 10.0
"""Factor beyond these bounds from which the check fails."""


class CheckedSplit(NamedTuple):
    """Samples: inputs ``(n, …)`` as stored, and targets ``(n, …)``."""

    inputs: NDArray[Any]
    targets: NDArray[Any]


class CheckedSplits(NamedTuple):
    """What is trained on, what validates and what is tested on."""

    train: CheckedSplit
    validation: CheckedSplit
    test: CheckedSplit


def divide_splits(problem: SuiteProblem, dataset: Dataset) -> CheckedSplits:
    """Return the three splits as trials see them.

    Raises:
        UserError: The training samples cannot be divided as the suite says.
    """
    suite = problem.suite
    train, validation = data.divided(
        dataset, suite.data.validation, suite.data.name, problem.task.contiguous)
    return CheckedSplits(CheckedSplit(*train), CheckedSplit(*validation),
                         CheckedSplit(dataset.test_inputs, dataset.test_targets))


def normalised_on_cpu(dataset: Dataset, split: CheckedSplit) -> Resident:
    """Return a copy of a split as it is normalised in trials, on the CPU."""
    return Resident(np.array(split.inputs), np.array(split.targets),
                    Conversion.of(dataset, *split, torch.device("cpu")))


def check_overlap(problem: SuiteProblem, splits: CheckedSplits) -> CheckFinding:
    """Look for samples of the same inputs in two splits, by a hash of their bytes."""
    tolerated = _TOLERATED_IN_TEXT if problem.task.contiguous else _TOLERATED
    hashes = {name: digests(split.inputs) for name, split in splits._asdict().items()}

    def found() -> Iterator[tuple[Level, str]]:
        for first, second in itertools.combinations(hashes, 2):
            count = int(np.isin(hashes[second], hashes[first]).sum())
            if count:
                share = count / len(hashes[second])
                yield ("failed" if share > tolerated else "warning",
                       f"{count:,} of {len(hashes[second]):,} {second} samples ({share:.2%}) have "
                       f"the inputs of a {first} sample; remove them from one of the two")

    return worst_finding("overlap", found(), "no sample is in two splits")


def check_balance(problem: SuiteProblem, splits: CheckedSplits) -> CheckFinding:
    """Compare how often classes occur, and whether splits have them alike."""
    if not isinstance(problem.task, Classification):
        return CheckFinding("class balance", "skipped", "the targets of this task are no classes")
    classes = 1 + max(int(split.targets.max()) for split in splits)
    counts = {name: np.bincount(split.targets, minlength=classes)
              for name, split in splits._asdict().items()}
    train = counts["train"]

    def found() -> Iterator[tuple[Level, str]]:
        absent = np.flatnonzero(train == 0)
        if len(absent):
            yield ("failed", f"class {absent[0]} has no training sample ({len(absent)} such "
                             "classes); add some, or number the classes without gaps")
        elif train.max() > 10 * train.min():
            yield ("warning", f"class {train.argmax()} has {train.max():,} training samples and "
                              f"class {train.argmin()} {train.min():,}; accuracy will hide the "
                              "rare one, unless that is intended")
        for name in ("validation", "test"):
            gone = np.flatnonzero((counts[name] == 0) & (train > 0))
            if len(gone):
                yield ("warning", f"class {gone[0]} has no {name} sample ({len(gone)} such "
                                  "classes); draw the split per class")
            shares = (counts[name] / counts[name].sum(), train / train.sum())
            moved = float(np.abs(shares[0] - shares[1]).sum()) / 2
            if moved > max(_UNLIKE, (classes / counts[name].sum()) ** 0.5):
                yield ("warning", f"{name} and training classes differ in frequency, by "
                                  f"{moved:.0%} of the samples; shuffle before you split")

    return worst_finding(
        "class balance", found(),
        f"{classes} classes of {train.min():,} to {train.max():,} training samples")


def check_labels(
    problem: SuiteProblem, splits: CheckedSplits, outputs: int | None
) -> CheckFinding:
    """Compare targets with what the network can answer.

    Args:
        problem: The suite's.
        splits: Its data.
        outputs: Size of the network's last dimension, the classes or the vocabulary.
    """
    def finding(level: Level, text: str) -> CheckFinding:
        return CheckFinding("label range", level, text)

    targets = [split.targets for split in splits]
    if isinstance(problem.task, Regression):
        low, high = min(float(t.min()) for t in targets), max(float(t.max()) for t in targets)
        if float(splits.train.targets.std()) == 0:
            return finding("failed", f"all training targets are {low:g}: nothing can be learned; "
                                     "check what the data's source returns")
        return finding("ok", f"targets from {low:g} to {high:g}")
    if not isinstance(problem.task, Classification | LanguageModel) or outputs is None:
        return finding("skipped", "a task of your own: only its check() knows the range")
    what = "class" if isinstance(problem.task, Classification) else "token"
    counted = [t[t != IGNORED].astype(np.int64) for t in targets]
    lowest = min(int(each.min(initial=0)) for each in counted)
    highest = max(int(each.max(initial=-1)) for each in counted)
    if lowest < 0:
        return finding("failed", f"{what} {lowest} occurs; number them from 0")
    if highest >= outputs:
        return finding("failed", f"{what} {highest} occurs and the network has {outputs} outputs; "
                                 f"give it {highest + 1}, or correct the targets")
    if what == "class" and highest < outputs - 1:
        return finding("warning", f"the network has {outputs} outputs, and {what} {highest} is "
                                  f"the highest that occurs; give it {highest + 1}, unless the "
                                  "others are meant to be there")
    return finding("ok", f"{what} 0 to {highest}, {outputs} outputs")


def check_normalisation(dataset: Dataset, splits: CheckedSplits) -> CheckFinding:
    """Look at mean and deviation of the training inputs as the network gets them."""
    check, count = "normalisation", len(splits.train.inputs)
    chosen = np.linspace(0, count - 1, min(count, _SAMPLES)).astype(np.int64)
    part = CheckedSplit(splits.train.inputs[chosen], splits.train.targets[chosen])
    inputs = normalised_on_cpu(dataset, part).take(torch.arange(len(chosen))).inputs
    if not (isinstance(inputs, torch.Tensor) and inputs.dtype.is_floating_point):
        return CheckFinding(
            check, "skipped", "inputs are no array of floats, and stay as they are")
    numbers = inputs.double()
    mean, std = float(numbers.mean()), float(numbers.std(correction=0))
    sizes = numbers.square().mean(dim=0).sqrt()
    size, (low, high) = float(sizes.max()), _SPREAD
    shown = f"mean {mean:.3g}, standard deviation {std:.3g}"
    excess = max(abs(mean) / _MAX_MEAN, std / high, low / max(std, 1e-30), size / _MAX_RMS)
    if excess <= 1:
        return CheckFinding(check, "ok", f"training inputs have {shown}")
    place = ", ".join(map(str, np.unravel_index(int(sizes.argmax()), sizes.shape)))
    return CheckFinding(check, "failed" if excess > _GROSSLY else "warning",
                        f"training inputs have {shown}, input [{place}] a root mean square of "
                        f"{size:.3g}; leave out data.mean and data.std, or correct them")
