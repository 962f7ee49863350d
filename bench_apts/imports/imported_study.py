"""What every reader of foreign logs ends in: problems and trials, written as a results folder.

A log says how a metric went over steps and time. What it does not say stays unknown: the record
names the fields (``records.Imported``), and reports show them as not counted.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.records import End, Eval, Event, Header, Imported, TrialRecord
from bench_apts.core.spec import (
    NO_LIMIT,
    Data,
    Entry,
    Evaluation,
    Model,
    Provenance,
    Scalar,
    Seeds,
    Study,
    Suite,
    Target,
    Trial,
    digest,
)
from bench_apts.stats.trial_costs import hit_bracket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.records import Status

_NEVER_LOGGED = ("backwards", "cpu_s", "energy_j", "forwards", "peak_memory_bytes", "seeds")
"""Fields of a record that no reader finds in a log."""

_SEED_DIGITS = 12
"""Hexadecimal digits of a name's hash that stand for unknown seeds, so that no trials pair."""


class LoggedTarget(NamedTuple):
    """What trials of one training problem have to reach.

    Attributes:
        metric: Its name in the logs.
        direction: Whether it is to grow or to fall.
        value: The target, above 0.
        source: Where the value comes from, in words.
    """

    metric: str
    direction: Literal["max", "min"]
    value: float
    source: str


class LoggedEval(NamedTuple):
    """One evaluation in a log; None where the log does not say.

    Attributes:
        step: Optimizer steps so far.
        train_s: Seconds of training so far.
        wall_s: Seconds since the trial began.
        samples: Samples of all ranks so far.
        metrics: Of the validation split; without those that are not finite.
    """

    step: int
    train_s: float | None
    wall_s: float | None
    samples: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class LoggedTrial:
    """One training in a log.

    Attributes:
        problem: Name of its training problem.
        label: Name of its optimizer, or of whatever else is compared.
        name: What it is called among the trials of that optimizer and problem.
        source: The file that it was read from, for people.
        stage: ``tune`` for a draw of a search, ``report`` for a fresh seed of one configuration.
        evals: In the order of steps.
        tuning_free: Whether the optimizer is not tuned.
        hyperparameters: None where the log does not say them.
        status: How it ended; None: by whether it hit. "running": it has not.
        reason: What the log says of that.
    """

    problem: str
    label: str
    name: str
    source: str
    stage: Literal["tune", "report"]
    evals: Sequence[LoggedEval]
    tuning_free: bool = False
    hyperparameters: dict[str, Scalar] | None = None
    status: Status | Literal["running"] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ImportSettings:
    """What holds for all trials of an import.

    Attributes:
        form: Name of the subcommand of ``bench-apts import``.
        device: What the trainings ran on, ``cpu`` or ``cuda``.
        ranks: How many processors each of them used.
        command: The command line.
        batch_size: Samples of a global minibatch; None where it is unknown.
        consecutive: How many evaluations in a row make a hit.
    """

    form: str
    device: Literal["cpu", "cuda"]
    ranks: int
    command: list[str]
    batch_size: int | None = None
    consecutive: int = 1


class ImportCounts(NamedTuple):
    """How many trials, evaluations, hits, optimizers and problems were imported."""

    trials: int
    evaluations: int
    hits: int
    optimizers: int
    problems: int


def write_imported(out: Path, targets: dict[str, LoggedTarget], trials: Iterable[LoggedTrial],
                   settings: ImportSettings) -> ImportCounts:
    """Write trials as a results folder, which is there whole or not at all.

    Args:
        out: The new folder.
        targets: What to reach, by problem; those without a trial are left out.
        trials: In the order in which each optimizer's are to be numbered.
        settings: What holds for all of them.

    Raises:
        UserError: ``out`` exists already or cannot be written, or ``trials`` is empty.
    """
    if out.exists():
        raise UserError(f"{out} exists already; name another folder with --study or --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            whole = Path(temporary) / "whole"
            (whole / "trials").mkdir(parents=True)
            counts = _write(whole, targets, trials, settings)
            whole.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; make room, or name a folder "
                        "elsewhere with --out") from error
    return counts


def _write(folder: Path, targets: dict[str, LoggedTarget], trials: Iterable[LoggedTrial],
           settings: ImportSettings) -> ImportCounts:
    suites = {name: _suite(name, target, settings) for name, target in targets.items()}
    numbers: Counter[tuple[str, str, str]] = Counter()
    created, evaluations, hits, count = store.now(), 0, 0, 0
    encoder = msgspec.json.Encoder()
    for logged in trials:
        place = (logged.problem, logged.label, logged.stage)
        run_id, events, hit = _events(
            logged, suites[logged.problem], numbers[place], settings, created)
        numbers[place] += 1
        path = folder / "trials" / f"{run_id}.jsonl"
        # Not one by one to the disk, as a trial's events are: the folder is renamed when whole.
        path.write_bytes(b"".join(encoder.encode(event) + b"\n" for event in events))
        count, evaluations, hits = count + 1, evaluations + len(logged.evals), hits + hit
    if not count:
        raise UserError("the logs hold no trial; see `bench-apts import "
                        f"{settings.form} --help` for what it reads")
    labels = sorted({label for _, label, _ in numbers})
    seen = {problem for problem, *_ in numbers}
    most = {stage: max((number for (*_, each), number in numbers.items() if each == stage),
                       default=0) for stage in ("tune", "report")}
    study = Study(tuple(suite for name, suite in suites.items() if name in seen),
                  tuple(Entry(label, label) for label in labels), (settings.ranks,),
                  most["tune"], most["report"], 0, settings.device, twins=False)
    write_json(folder / "study.json", store.StudyFile(study, settings.command, created, {}))
    return ImportCounts(count, evaluations, hits, len(labels), len(seen))


def _suite(name: str, target: LoggedTarget, settings: ImportSettings) -> Suite:
    """Return a suite that says what to reach, and nothing of how to train."""
    try:
        return msgspec.convert(msgspec.to_builtins(Suite(
            name=name, summary="imported from logs", data=Data(), model=Model(),
            batch_size=settings.batch_size or 1, budget=NO_LIMIT,
            evaluation=Evaluation(1, settings.consecutive),
            target=Target(target.metric, target.direction, target.value,
                          Provenance("", 0, 0, target.source)))), Suite)
    except msgspec.ValidationError as error:
        raise UserError(f"problem {name!r} with its target {target.metric} {target.value:g} "
                        f"({target.source}) is refused: {error}; a name has letters, digits, "
                        "'.', '_', '-' and one '@', and a target is above 0") from error


def _events(logged: LoggedTrial, suite: Suite, repetition: int, settings: ImportSettings,
            created: str) -> tuple[str, list[Event], bool]:
    """Return a trial's run id, its events, and whether it hit its target."""
    known = logged.evals[0] if logged.evals else LoggedEval(0, None, None, None, {})
    by_batch = settings.batch_size or 1
    missing = {
        "samples": known.samples is None and settings.batch_size is None,
        "train_s": known.train_s is None, "wall_s": known.wall_s is None,
        "hyperparameters": logged.hyperparameters is None}
    seed = int(digest([logged.problem, logged.label, logged.name])[:_SEED_DIGITS], 16)
    trial = Trial(
        label=logged.label, optimizer=logged.label,
        # Each draw of a search is a configuration of its own, even where the log does not name it.
        hyperparameters=logged.hyperparameters if logged.hyperparameters is not None else (
            {"trial": logged.name} if logged.stage == "tune" else {}),
        tuning_free=logged.tuning_free, batch_size=by_batch, suite=suite, ranks=settings.ranks,
        stage=logged.stage, repetition=repetition, seeds=Seeds(seed, seed),
        device=settings.device, data_sha256="", plugin=f"import:{settings.form}",
        plugin_sha256="")
    header = Header(
        trial.run_id, created, trial, {}, trial.configuration,
        imported=Imported(settings.form, logged.source, tuple(sorted(
            [*_NEVER_LOGGED, *(name for name, absent in missing.items() if absent)]))))
    evals = [Eval(
        step=each.step,
        samples=each.step * by_batch if each.samples is None else each.samples, epoch=0.0,
        train_s=each.train_s or 0.0,
        wall_s=(each.train_s or 0.0) if each.wall_s is None else each.wall_s, cpu_s=0.0,
        forwards=0, backwards=0, peak_memory_bytes=0, train_loss=None, validation=each.metrics,
        comm={}) for each in logged.evals]
    hit = hit_bracket(TrialRecord(header, None, evals, None, "")) is not None
    if logged.status == "running":
        return header.run_id, [header, *evals], hit
    last = evals[-1] if evals else None
    end = End(logged.status or ("hit" if hit else "miss"), created, last.wall_s if last else 0.0,
              samples=last.samples if last else 0, reason=logged.reason)
    return header.run_id, [header, *evals, end], hit
