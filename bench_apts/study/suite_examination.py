"""All checks of a suite: its data, its network, short real trials of it, and its target."""

from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING

from msgspec.structs import replace
from rich.console import Console

from bench_apts.core import store, units
from bench_apts.core.errors import UserError, describe_error
from bench_apts.study import suite_data_checks, suite_network_checks
from bench_apts.study.check_findings import CheckFinding, worst_finding
from bench_apts.study.plan import Plan
from bench_apts.study.preflight import prepare_data
from bench_apts.study.progress import StudyProgress
from bench_apts.study.scheduler import run_study
from bench_apts.study.shared_folder import open_results_folder
from bench_apts.suites import data
from bench_apts.suites.suite_problem import SuiteProblem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Study, Suite
    from bench_apts.study.check_findings import Level
    from bench_apts.study.suite_data_checks import CheckedSplits
    from bench_apts.suites.data import Dataset, Prepared

CHECK_OPTIMIZERS = "sgd,apts"
CHECK_STEPS = 2
_CLOSE_METRICS = 1e-3
"""Relative difference between sums over one and over two ranks that rounding may make."""


def examine_suite(
    study: Study, name: str, missing: Sequence[str], data_dir: Path | None, offline: bool,
    folder: Path,
) -> Iterator[CheckFinding]:
    """Yield what each check finds, as soon as it is known.

    What depends on a part that failed is not checked, and not mentioned.

    Args:
        study: The suite, with the optimizers and world sizes of short trials.
        name: The suite as the user called it.
        missing: What its file lacks of a target, as ``missing_target`` says.
        data_dir: As of ``bench_apts.study.preflight.prepare_data``.
        offline: Likewise.
        folder: Where records of the trials may be written.
    """
    (suite,) = study.suites
    problem = SuiteProblem(suite, study.folder(suite))
    try:
        prepared = prepare_data(study, data_dir, offline)
        dataset = data.load(prepared[suite.data.name].folder)
        parts = suite_data_checks.divide_splits(problem, dataset)
    except UserError as error:
        yield CheckFinding("data", "failed", str(error))
        yield check_target(suite, missing, [], name)
        return
    streamed = dataset.stream is not None  # the arrays hold only examples
    counts = "streamed" if streamed else ", ".join(
        f"{len(split.targets):,} {split_name}" for split_name, split in parts._asdict().items())
    inputs, targets = parts.train
    yield CheckFinding("data", "ok",
                       f"{counts} samples; inputs {inputs.dtype} {inputs.shape[1:]}, targets "
                       f"{targets.dtype} {targets.shape[1:]}")
    if streamed:
        for check in ("overlap", "class balance"):
            yield CheckFinding(check, "skipped",
                               "samples are streamed, not all read before a trial")
    else:
        yield suite_data_checks.check_overlap(problem, parts)
        yield suite_data_checks.check_balance(problem, parts)
    yield suite_data_checks.check_normalisation(dataset, parts)
    records = yield from _check_by_training(study, problem, prepared, dataset, parts, folder)
    yield check_target(suite, missing, records, name)


def _check_by_training(
    study: Study, problem: SuiteProblem, prepared: dict[str, Prepared], dataset: Dataset,
    parts: CheckedSplits, folder: Path,
) -> Generator[CheckFinding, None, list[TrialRecord]]:
    """Yield what is found of network, loss and trials; return the records of the trials."""
    try:
        untrained = suite_network_checks.build_untrained(problem, dataset, parts)
        outputs = untrained.outputs()
    except Exception as error:
        yield CheckFinding("network", "failed", "it cannot be run on training samples: "
                                                f"{_console_text(error)}")
        return []
    labels = suite_data_checks.check_labels(problem, parts, outputs)
    yield labels
    if labels.level == "failed":
        return []
    try:
        yield suite_network_checks.check_initial_loss(untrained, parts)
        yield suite_network_checks.check_sample_losses(untrained)
        additive = list(suite_network_checks.check_additive_metrics(untrained))
    except Exception as error:
        yield CheckFinding("loss", "failed", "it cannot be computed of training samples: "
                                             f"{_console_text(error)}")
        return []
    finding, records = _run_short_trials(study, prepared, folder)
    yield finding
    yield check_determinism(records, study.device)
    count = None if dataset.stream is not None else len(parts.validation.targets)
    samples = "validation sample" if count is None else f"of {count:,} validation samples"
    yield worst_finding("evaluation", [*additive, *check_evaluation_counts(records, count)],
                        f"each {samples} counts once")
    return records


def _console_text(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else describe_error(error)


def _run_short_trials(study: Study, prepared: dict[str, Prepared], folder: Path
                      ) -> tuple[CheckFinding, list[TrialRecord]]:
    """Run the short trials, quietly."""
    short = shorten_study(study)
    try:
        plan = Plan(short, prepared)
        with open_results_folder(folder):
            run_study(plan, folder, StudyProgress(Console(file=io.StringIO())))
    except UserError as error:
        return CheckFinding("training", "failed", str(error)), store.read_trials(folder)
    records = store.read_trials(folder)
    return check_training(short, records), records


def shorten_study(study: Study) -> Study:
    """Return a study whose trials end after the first evaluation at two steps or later."""
    def short(suite: Suite) -> Suite:
        samples = CHECK_STEPS * suite.global_batch(max(study.ranks))
        return replace(suite, budget=replace(suite.budget, samples=samples),
                       evaluation=replace(suite.evaluation, every_samples=samples, consecutive=1))

    return replace(study, suites=tuple(map(short, study.suites)))


def check_training(study: Study, records: Sequence[TrialRecord]) -> CheckFinding:
    """Say whether all trials ran to their end.

    One optimizer may diverge, as its hyperparameters are not tuned; if all diverge, it fails.
    """
    groups = {(entry.label, ranks): [
        r for r in records if (r.trial.label, r.trial.ranks) == (entry.label, ranks)]
        for entry, ranks in itertools.product(study.entries, study.ranks)}
    statuses = {place: [r.end.status if r.end else "" for r in mine]
                for place, mine in groups.items()}
    everywhere = all("diverged" in each for each in statuses.values())

    def found() -> Iterator[tuple[Level, str]]:
        for (label, ranks), mine in groups.items():
            where = f"{label} at N = {ranks}"
            bad = next((r for r in mine if not (
                r.end and r.end.status in ("hit", "miss", "diverged"))), None)
            if bad is not None:
                end = bad.end
                yield "failed", f"{where}: {end.reason or end.status if end else 'no end'}"
            elif not mine:
                yield "failed", f"{where}: not run, as others failed alike"
            elif "diverged" in statuses[label, ranks]:
                yield ("failed" if everywhere else "warning",
                       f"{where} diverges within {CHECK_STEPS} steps at its default "
                       "hyperparameters; scale the loss or the targets down")

    ranks = " and ".join(map(str, study.ranks))
    labels = " and ".join(entry.label for entry in study.entries)
    return worst_finding(
        "training", found(), f"{labels} each take {CHECK_STEPS} steps at N = {ranks}")


def check_determinism(records: Sequence[TrialRecord], device: str) -> CheckFinding:
    """Compare trials that must be equal: repeated ones whole, all others in what they start with.

    On ``device`` ``"cuda"`` atomic additions may come in any order.
    """
    pairs = [(one, two) for one, two in itertools.combinations(records, 2)
             if one.trial.twin != two.trial.twin and one.evals and two.evals
             and replace(one.trial, twin=False) == replace(two.trial, twin=False)]
    if not pairs:
        return CheckFinding("determinism", "skipped", "no trial could be run twice")

    def found() -> Iterator[tuple[Level, str]]:
        weights = {r.start.initial_weights_sha256 for r in records if r.start} - {None}
        if len(weights) > 1:
            yield ("failed", "the network starts from other weights each time; draw them from "
                             "torch's global generator, which the harness seeds")
            return
        for one, two in pairs:
            ends = [r.end.final_weights_sha256 if r.end else None for r in (one, two)]
            curves = [[e.validation for e in r.evals] for r in (one, two)]
            if ends[0] != ends[1] or curves[0] != curves[1]:
                remedy = ("call torch.use_deterministic_algorithms(True) in the model's module"
                          if device == "cuda" else "draw random numbers from torch's global "
                          "generator, and read no clock")
                yield ("warning" if device == "cuda" else "failed",
                       f"two equal runs of {one.trial.label} at N = {one.trial.ranks} end with "
                       f"different weights or metrics; {remedy}")

    ranks = " and ".join(str(r) for r in sorted({one.trial.ranks for one, _ in pairs}))
    return worst_finding("determinism", found(), f"two runs at N = {ranks} are equal, bit for bit")


def check_evaluation_counts(
    records: Sequence[TrialRecord], validation: int | None
) -> Iterator[tuple[Level, str]]:
    """Yield how an evaluation by several ranks differs from that by one, if there were any.

    ``validation`` is the size of the validation split; None if it is not known here.
    """
    if not any(record.evals for record in records):
        yield "skipped", "no trial came to an evaluation"
    for record in records:
        if record.start and validation not in (None, record.start.validation_samples):
            yield ("failed", f"a trial evaluates {record.start.validation_samples:,} samples, and "
                             f"the validation split has {validation:,}")
            return
    first = {(r.trial.label, r.trial.ranks): r.evals[0].validation for r in records if r.evals}
    for (label, ranks), values in first.items():
        alone = first.get((label, 1), values)
        for name in alone:
            other = values.get(name, math.nan)
            if not math.isclose(alone[name], other, rel_tol=_CLOSE_METRICS, abs_tol=1e-6):
                yield ("failed", f"{name} of the untrained network is {alone[name]:.6g} at N = 1 "
                                 f"and {other:.6g} at N = {ranks}; it must be a sum over samples, "
                                 "by a count, whatever batch they are in")
                return


def check_target(suite: Suite, missing: Sequence[str], records: Sequence[TrialRecord], name: str
                 ) -> CheckFinding:
    """Say whether a suite's target is there, measured, and not met before training.

    Args:
        suite: The suite.
        missing: What its file lacks, as ``missing_target`` says.
        records: Short trials of the suite.
        name: The suite as the user called it.
    """
    target, remedy = suite.target, f"measure one: bench-apts calibrate {name} --write"
    if missing:
        keys = " and ".join(each.partition("=")[0].removeprefix("suite.") for each in missing)
        return CheckFinding("target", "failed", f"{keys} is missing; {remedy}")
    goal = units.format_goal(target).replace(units.THIN, " ")
    source = target.provenance
    starts = [r.evals[0].validation.get(target.metric, math.nan) for r in records if r.evals]
    chance = next((r.start.chance for r in records if r.start and r.start.chance), None)

    def found() -> Iterator[tuple[Level, str]]:
        if any(map(target.reached, starts)):
            yield ("failed", f"the untrained network reaches {goal}; {remedy}")
        elif target.metric == "accuracy" and chance and target.value <= chance:
            yield ("failed", f"always answering the most frequent class reaches {goal}; {remedy}")
        if source.trials == 0 or source.seeds == 0:
            yield ("warning", f"{goal} is chosen by hand, not measured; {remedy}")
        elif source.note.startswith("provisional"):
            yield ("warning", f"{goal} is provisional; {remedy}")

    return worst_finding("target", found(), f"{goal}, measured with {source.optimizer} by "
                                            f"{source.trials} trials and {source.seeds} seeds")
