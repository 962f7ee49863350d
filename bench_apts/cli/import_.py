"""``bench-apts import``: other programs' logs as a results folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.imports.imported_study import ImportCounts, LoggedTarget

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None,
                  help="Make a results folder of other programs' logs, see docs/importing.md.",
                  short_help="Make a results folder of other programs' logs.")

Device = Literal["cpu", "cuda"]
_Targets = Annotated[Path | None, Option(
    "--targets", metavar="FILE", help="JSON file with metric and target of each problem.",
    show_default=False)]
_Gpus = Annotated[int, Option(
    "--gpus", min=1, help="Processors (ranks) that each training used.")]
_OnDevice = Annotated[Device, Option(
    "--device", help="What trainings ran on. Reports lead with GPU-seconds on cuda, with samples "
                     "on cpu.")]
_Suite = Annotated[str, Option("--suite", metavar="NAME", help="Name of the training problem.")]
_Metric = Annotated[str | None, Option(
    metavar="COLUMN", help="Column of the target's metric, of validation data.",
    show_default=False)]
_Target = Annotated[float | None, Option(
    metavar="VALUE", help="Value of the metric to reach.", show_default=False)]
_Direction = Annotated[Literal["max", "min"], Option(
    help="Whether the metric is to grow (max) or to fall (min).")]
_Batch = Annotated[int | None, Option(
    min=1, help="Samples of a global minibatch, if steps are all that was logged.",
    show_default=False)]
_Samples = Annotated[str, Option(
    metavar="COLUMN", help="Column of training samples so far, of all ranks.",
    show_default=False)]
_Consecutive = Annotated[int, Option(
    min=1, help="Evaluations in a row at the target that make a hit.")]
_Free = Annotated[str, Option(
    metavar="NAME,…", show_default=False,
    help="Optimizers that were not tuned: their trials are seeds of one configuration.")]


@app.command("algoperf")
def algoperf(
    logs: Annotated[Path, Argument(
        metavar="LOGDIR", show_default=False,
        help="Folder with the logs: RULESET/SUBMISSION/study_K/WORKLOAD_FRAMEWORK/trial_J/"
             "eval_measurements.csv, or a RULESET's folder alone.")],
    targets: _Targets = None,
    workloads: Annotated[str, Option(
        metavar="NAME,…", show_default=False,
        help="Workloads to import; base: those that the file of targets calls so.  "
             "[default: all with a target]")] = "",
    gpus: _Gpus = 8,
    out: session.Out = Path("results"),
    study: session.StudyName = None,
) -> None:
    """Import AlgoPerf's logs.

    Each workload is a suite, each submission an optimizer.
    """
    from bench_apts.imports import algoperf_logs
    from bench_apts.imports.imported_study import ImportSettings, write_imported
    from bench_apts.imports.log_table import read_targets

    if targets is None:
        raise UserError("--targets FILE is missing: the JSON file with each workload's metric and "
                        "target, see docs/importing.md")
    known, base = read_targets(targets)
    wanted = set(base) if workloads == "base" else set(filter(None, workloads.split(",")))
    if strange := sorted(wanted - set(known)):
        raise UserError(f"--workloads: {targets} has no target of {', '.join(strange)}; it has "
                        f"{', '.join(known)}")
    found, left_out = algoperf_logs.find_logs(logs, known, base, wanted)
    named = {algoperf_logs.problem_name(name, base): target for name, target in known.items()}
    counts = write_imported(
        folder := out / (study or "algoperf"), named,
        algoperf_logs.read_logs(found, {name: target.metric for name, target in named.items()}),
        ImportSettings("algoperf", "cuda", gpus, ["bench-apts", *sys.argv[1:]]))
    for label, lacking in algoperf_logs.incomplete(found).items():
        print(f"note: {label} is incomplete: {lacking}")
    without = {name: number for name, number in left_out.items() if name not in known}
    if without:
        print(f"note: left out {sum(without.values())} trials of workloads without a target: "
              + ", ".join(f"{name} ({number})" for name, number in sorted(without.items())))
    if others := sum(left_out.values()) - sum(without.values()):
        print(f"note: left out {others} trials of workloads that --workloads does not name")
    _say(counts, folder)


@app.command("csv")
def csv(
    files: Annotated[list[Path], Argument(
        metavar="FILE…", help="CSV files with a line for each evaluation.", show_default=False)],
    optimizer: Annotated[str, Option(
        metavar="COLUMN", help="Column of what is compared.")] = "optimizer",
    trial: Annotated[str, Option(
        metavar="COLUMN", help="Column with the name of a trial among those of its "
                               "optimizer.")] = "trial",
    step: Annotated[str, Option(
        metavar="COLUMN", help="Column of optimizer steps so far.")] = "step",
    metric: _Metric = None,
    target: _Target = None,
    direction: _Direction = "max",
    time: Annotated[str, Option(
        metavar="COLUMN", help="Column of seconds of training so far, without evaluations.",
        show_default=False)] = "",
    wall: Annotated[str, Option(
        metavar="COLUMN", help="Column of seconds since the trial began.",
        show_default=False)] = "",
    samples: _Samples = "",
    batch_size: _Batch = None,
    suite: _Suite = "imported",
    suite_column: Annotated[str, Option(
        metavar="COLUMN", help="Column with the name of the training problem; goes with "
                               "--targets.", show_default=False)] = "",
    targets: _Targets = None,
    hyperparameters: Annotated[str, Option(
        metavar="COLUMN,…", help="Columns of hyperparameters.", show_default=False)] = "",
    status: Annotated[str, Option(
        metavar="COLUMN", help="Column of how a trial ended: hit, miss, diverged, oom, error, "
                               "timeout, pruned, interrupted, running.",
        show_default=False)] = "",
    tuning_free: _Free = "",
    consecutive: _Consecutive = 1,
    gpus: _Gpus = 1,
    device: _OnDevice = "cuda",
    out: session.Out = Path("results"),
    study: session.StudyName = None,
) -> None:
    """Import CSV files, their columns named by options."""
    from bench_apts.imports.csv_logs import CsvColumns, read_trials
    from bench_apts.imports.imported_study import ImportSettings, write_imported

    _require_headline(device, timed=bool(time), sampled=bool(samples) or batch_size is not None)
    known = _known_targets(suite, suite_column, targets, metric, target, direction)
    columns = CsvColumns(optimizer, trial, step, time, wall, samples, suite_column, status,
                         _names(hyperparameters))
    counts = write_imported(
        folder := out / (study or files[0].stem), known,
        read_trials(files, columns, known, suite, _names(tuning_free)),
        ImportSettings("csv", device, gpus, ["bench-apts", *sys.argv[1:]], batch_size,
                       consecutive))
    _say(counts, folder)


@app.command("wandb-export")
def wandb_export(
    runs: Annotated[Path, Argument(
        metavar="RUNS", show_default=False,
        help="CSV file of the table of runs, as the workspace exports it.")],
    histories: Annotated[Path, Argument(
        metavar="FOLDER", show_default=False,
        help="Folder with the history of each run, NAME.csv.")],
    optimizer: Annotated[str, Option(
        metavar="COLUMN", help="Column of RUNS of what is compared.")] = "optimizer",
    name: Annotated[str, Option(
        metavar="COLUMN", help="Column of RUNS that files of histories are called "
                               "after.")] = "Name",
    hyperparameters: Annotated[str, Option(
        metavar="COLUMN,…", help="Columns of RUNS with hyperparameters.",
        show_default=False)] = "",
    metric: _Metric = None,
    target: _Target = None,
    direction: _Direction = "max",
    step: Annotated[str, Option(
        metavar="COLUMN", help="Column of steps so far.")] = "_step",
    time: Annotated[str, Option(
        metavar="COLUMN", help="Column of seconds so far; _runtime holds evaluations, "
                               "too.")] = "_runtime",
    samples: _Samples = "",
    batch_size: _Batch = None,
    suite: _Suite = "imported",
    tuning_free: _Free = "",
    consecutive: _Consecutive = 1,
    gpus: _Gpus = 1,
    device: _OnDevice = "cuda",
    out: session.Out = Path("results"),
    study: session.StudyName = None,
) -> None:
    """Import runs that Weights & Biases exported."""
    from bench_apts.imports.imported_study import ImportSettings, write_imported
    from bench_apts.imports.wandb_logs import WandbColumns, read_runs

    _require_headline(device, timed=True, sampled=bool(samples) or batch_size is not None)
    known = _known_targets(suite, "", None, metric, target, direction)
    counts = write_imported(
        folder := out / (study or runs.stem), known,
        read_runs(runs, histories, WandbColumns(
            optimizer, name, _names(hyperparameters), known[suite].metric, step, time, samples),
            suite, _names(tuning_free)),
        ImportSettings("wandb-export", device, gpus, ["bench-apts", *sys.argv[1:]], batch_size,
                       consecutive))
    _say(counts, folder)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _require_headline(device: Device, *, timed: bool, sampled: bool) -> None:
    """Ask for what reports lead with: of logs without it, they could say nothing."""
    if device == "cuda" and not timed:
        raise UserError("reports on GPUs lead with GPU-seconds: name the column of training "
                        "seconds with --time, or say --device cpu, where samples lead")
    if device == "cpu" and not sampled:
        raise UserError("reports on CPUs lead with samples: name their column with --samples, or "
                        "the minibatch with --batch-size")


def _known_targets(suite: str, suite_column: str, targets: Path | None, metric: str | None,
                   target: float | None, direction: Literal["max", "min"],
                   ) -> dict[str, LoggedTarget]:
    """Return the target of each problem, of the file or the options."""
    from bench_apts.imports.imported_study import LoggedTarget
    from bench_apts.imports.log_table import read_targets

    if targets is not None:
        if metric is not None or target is not None:
            raise UserError("--targets says metrics and targets; leave --metric and --target out")
        return read_targets(targets)[0]
    if suite_column:
        raise UserError("--suite-column needs --targets, with the target of each problem")
    if metric is None or target is None:
        raise UserError("--metric COLUMN and --target VALUE are missing: costs are those of "
                        "reaching a target")
    return {suite: LoggedTarget(metric, direction, target, "--target")}


def _say(counts: ImportCounts, folder: Path) -> None:
    print(f"imported: {counts.trials:,} trials ({counts.hits:,} reached the target), "
          f"{counts.evaluations:,} evaluations, optimizers: {counts.optimizers}, suites: "
          f"{counts.problems}")
    print(f"results: {folder}")
