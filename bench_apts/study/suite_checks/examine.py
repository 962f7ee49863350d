"""All checks of a suite, in the order in which they depend on one another."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from bench_apts.core import store
from bench_apts.core.errors import UserError, brief
from bench_apts.study import run as studies
from bench_apts.study.plan import Plan
from bench_apts.study.progress import Progress
from bench_apts.study.suite_checks import network, splits, target, trials
from bench_apts.study.suite_checks.finding import Finding, worst
from bench_apts.suites import data
from bench_apts.suites.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Study
    from bench_apts.study.suite_checks.splits import Splits
    from bench_apts.suites.data import Dataset, Prepared


def examine(study: Study, name: str, missing: Sequence[str], data_dir: Path | None, offline: bool,
            folder: Path) -> Iterator[Finding]:
    """Yield what each check finds, as soon as it is known.

    What depends on a part that failed is not checked, and not mentioned.

    Args:
        study: The suite, with the optimizers and world sizes of short trials.
        name: The suite as the user called it.
        missing: What its file lacks of a target, as ``target_file.missing`` says.
        data_dir: As of ``bench_apts.study.run.prepare``.
        offline: Likewise.
        folder: Where records of the trials may be written.
    """
    (suite,) = study.suites
    problem = Problem(suite, study.folder(suite))
    try:
        prepared = studies.prepare(study, data_dir, offline)
        dataset = data.load(prepared[suite.data.name].folder)
        parts = splits.divide(problem, dataset)
    except UserError as error:
        yield Finding("data", "failed", str(error))
        yield target.check(suite, missing, [], name)
        return
    yield Finding("data", "ok", _described(parts, _streamed(dataset)))
    if _streamed(dataset):  # of which only examples are at hand
        yield from (Finding(check, "skipped", "samples are streamed, not all read before a trial")
                    for check in ("overlap", "class balance"))
    else:
        yield splits.overlap(problem, parts)
        yield splits.balance(problem, parts)
    yield splits.normalisation(dataset, parts)
    records = yield from _learned(study, problem, prepared, dataset, parts, folder)
    yield target.check(suite, missing, records, name)


def _learned(study: Study, problem: Problem, prepared: dict[str, Prepared], dataset: Dataset,
             parts: Splits, folder: Path) -> Generator[Finding, None, list[TrialRecord]]:
    """Yield what is found of network, loss and trials; return the records of the trials."""
    try:
        untrained = network.untrained(problem, dataset, parts)
        outputs = untrained.outputs()
    except Exception as error:
        yield Finding("network", "failed", f"it cannot be run on training samples: {_said(error)}")
        return []
    labels = splits.labels(problem, parts, outputs)
    yield labels
    if labels.level == "failed":
        return []
    try:
        yield network.initial_loss(untrained, parts)
        yield network.sample_losses(untrained)
        additive = list(network.additive(untrained))
    except Exception as error:
        yield Finding("loss", "failed", f"it cannot be computed of training samples: "
                                        f"{_said(error)}")
        return []
    finding, records = _trials(study, prepared, folder)
    yield finding
    yield trials.determinism(records, study.device)
    count = None if _streamed(dataset) else len(parts.validation.targets)
    yield worst("evaluation", [*additive, *trials.counted(records, count)],
                f"each {'' if count is None else f'of {count:,} '}validation sample"
                f"{'' if count is None else 's'} counts once")
    return records


def _streamed(dataset: Dataset) -> bool:
    """Whether the arrays hold only examples of samples that are read while training."""
    return dataset.stream is not None


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else brief(error)


def _described(parts: Splits, streamed: bool) -> str:
    counts = "streamed" if streamed else ", ".join(
        f"{len(split.targets):,} {name}" for name, split in parts._asdict().items())
    first = parts.train
    return (f"{counts} samples; inputs {first.inputs.dtype} {first.inputs.shape[1:]}, targets "
            f"{first.targets.dtype} {first.targets.shape[1:]}")


def _trials(study: Study, prepared: dict[str, Prepared], folder: Path
            ) -> tuple[Finding, list[TrialRecord]]:
    """Run the short trials, quietly."""
    short = trials.shortened(study)
    try:
        plan = Plan(short, prepared)
        with studies.opened(folder):
            studies.run(plan, folder, Progress(Console(file=io.StringIO())))
    except UserError as error:
        return Finding("training", "failed", str(error)), store.read_trials(folder)
    records = store.read_trials(folder)
    return trials.training(short, records), records
