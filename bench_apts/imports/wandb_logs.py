"""Runs of Weights & Biases: the exported table of runs, and a CSV file of each run's history.

Histories are what ``run.history()`` or ``run.scan_history()`` of its public API returns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core.errors import UserError
from bench_apts.core.files import require_folder
from bench_apts.imports.csv_logs import parse_scalar
from bench_apts.imports.imported_study import LoggedEval, LoggedTrial
from bench_apts.imports.log_table import ordered, parse_count, read_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from bench_apts.core.records import Status

_STATES: dict[str, Status | Literal["running"] | None] = {
    "finished": None, "crashed": "error", "failed": "error", "killed": "interrupted",
    "running": "running"}


class WandbColumns(NamedTuple):
    """Which column holds what; the first three are of the table of runs, the others of histories.

    Attributes:
        optimizer: What is compared.
        name: What files of histories are called after.
        hyperparameters: Those that have columns of the same name.
        metric: The target's metric; lines without it are no evaluations.
        step: Steps so far.
        time: Seconds of training so far.
        samples: Samples of all ranks so far; "" where nothing says it.
    """

    optimizer: str
    name: str
    hyperparameters: tuple[str, ...]
    metric: str
    step: str
    time: str
    samples: str


def read_runs(table_of_runs: Path, histories: Path, columns: WandbColumns, suite: str,
              tuning_free: Collection[str]) -> Iterator[LoggedTrial]:
    """Read all runs of a table.

    Args:
        table_of_runs: CSV file with a line for each run.
        histories: Folder with a file ``NAME.csv`` for each run.
        columns: Which column holds what.
        suite: The problem of all runs.
        tuning_free: Optimizers that were not tuned: their trials are seeds, not draws.

    Raises:
        UserError: A run has no history, a history has no run, or a file, a column or an entry is
            not what it should be.
    """
    table = read_table(table_of_runs)
    require_folder(histories, "name the folder with a CSV file of each run's history")
    name, optimizer = (table.place(column, option) for column, option in (
        (columns.name, "--name"), (columns.optimizer, "--optimizer")))
    state = table.columns.get("State")
    knobs = {column: table.place(column, "--hyperparameters")
             for column in columns.hyperparameters}
    seen: set[str] = set()
    labels: set[str] = set()
    for row in table.rows:
        run = table.text(row, name, columns.name, "--name")
        label = table.text(row, optimizer, columns.optimizer, "--optimizer")
        if run in seen:
            raise UserError(f"{table.path}, line {row[0]}: column '{columns.name}' has '{run}' a "
                            "second time; rename one run, or name a column of ids with --name")
        said = row[1][state].strip().lower() if state is not None else "finished"
        if said not in _STATES:
            raise UserError(f"{table.path}, line {row[0]}: column 'State' has '{said}'; write one "
                            f"of {', '.join(_STATES)}")
        path = histories / f"{run}.csv"
        if not path.is_file():
            raise UserError(f"{table.path}, line {row[0]}: run '{run}' has no history {path}; "
                            "export it, as a bill must hold all trials, or remove the line")
        seen.add(run)
        labels.add(label)
        free = label in tuning_free
        hyperparameters = {column: parse_scalar(row[1][place].strip())
                           for column, place in knobs.items()}
        yield LoggedTrial(
            suite, label, run, path.name, "report" if free else "tune", _evals(path, columns),
            tuning_free=free,
            hyperparameters=hyperparameters if hyperparameters or free else None,
            status=_STATES[said], reason=f"W&B: {said}" if said != "finished" else None)
    if strange := sorted(path.name for path in histories.glob("*.csv")
                         if path.stem not in seen and path != table_of_runs):
        raise UserError(f"{histories / strange[0]} is the history of no run in {table.path}; add "
                        "the run, as a bill must hold all trials, or move the file away")
    if absent := sorted(set(tuning_free) - labels):
        raise UserError(f"--tuning-free names {', '.join(absent)}, which no line of column "
                        f"'{columns.optimizer}' has; there are {', '.join(sorted(labels))}")


def _evals(path: Path, columns: WandbColumns) -> list[LoggedEval]:
    table = read_table(path)
    metric, step, time = (table.place(column, option) for column, option in (
        (columns.metric, "--metric"), (columns.step, "--step"), (columns.time, "--time")))
    samples = table.place(columns.samples, "--samples") if columns.samples else -1
    evals = []
    for row in table.rows:
        if not row[1][metric].strip():
            continue
        where, value = f"{path}, line {row[0]}", table.number(row, metric, columns.metric)
        evals.append(LoggedEval(
            parse_count(table.number(row, step, columns.step), where, columns.step),
            table.number(row, time, columns.time), None,
            None if samples < 0 else parse_count(
                table.number(row, samples, columns.samples), where, columns.samples),
            {columns.metric: value} if math.isfinite(value) else {}))
    return ordered(evals, str(path), (columns.step, columns.time, "", columns.samples))
