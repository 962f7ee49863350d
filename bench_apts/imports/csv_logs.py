"""Tables with a line for each evaluation, their columns named on the command line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, get_args

from bench_apts.core.errors import UserError
from bench_apts.core.records import Status
from bench_apts.imports.imported_study import LoggedEval, LoggedTrial
from bench_apts.imports.log_table import ordered, parse_count, read_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.spec import Scalar
    from bench_apts.imports.imported_study import LoggedTarget
    from bench_apts.imports.log_table import LogTable, Row

_STATUSES = (*get_args(Status), "running")


class CsvColumns(NamedTuple):
    """Which column holds what; "" for what the table does not say.

    Attributes:
        optimizer: What is compared.
        trial: Name of a trial among those of its optimizer and problem.
        step: Optimizer steps so far.
        time: Seconds of training so far.
        wall: Seconds since the trial began.
        samples: Samples of all ranks so far.
        suite: Name of the training problem.
        status: How the trial ended, as docs/formats.md has it, or ``running``.
        hyperparameters: Those that have columns of the same name.
    """

    optimizer: str
    trial: str
    step: str
    time: str = ""
    wall: str = ""
    samples: str = ""
    suite: str = ""
    status: str = ""
    hyperparameters: tuple[str, ...] = ()


def read_trials(paths: Sequence[Path], columns: CsvColumns, targets: dict[str, LoggedTarget],
                suite: str, tuning_free: Collection[str]) -> Iterator[LoggedTrial]:
    """Read the trials of each file; a trial's lines are all in one file.

    Args:
        paths: CSV files.
        columns: Which column holds what.
        targets: By problem.
        suite: The problem of all trials, where no column says it.
        tuning_free: Optimizers that were not tuned: their trials are seeds, not draws.

    Raises:
        UserError: A file, a column or an entry is not what it should be; names all three.
    """
    seen: dict[tuple[str, str, str], Path] = {}
    labels: set[str] = set()
    for path in paths:
        table = read_table(path)
        for key, rows in _grouped(table, columns, suite).items():
            problem, label, name = key
            if problem not in targets:
                raise UserError(f"{path}, line {rows[0][0]}: column '{columns.suite}' has "
                                f"'{problem}', which has no target; add one to --targets")
            if seen.setdefault(key, path) != path:
                raise UserError(f"{path} and {seen[key]} both have the trial '{name}' of {label}; "
                                f"rename one in column '{columns.trial}'")
            labels.add(label)
            yield _trial(table, columns, key, rows, targets[problem].metric, label in tuning_free)
    if absent := sorted(set(tuning_free) - labels):
        raise UserError(f"--tuning-free names {', '.join(absent)}, which no line of column "
                        f"'{columns.optimizer}' has; there are {', '.join(sorted(labels))}")


def _grouped(table: LogTable, columns: CsvColumns,
             suite: str) -> dict[tuple[str, str, str], list[Row]]:
    optimizer = table.place(columns.optimizer, "--optimizer")
    trial = table.place(columns.trial, "--trial")
    problem = table.place(columns.suite, "--suite-column") if columns.suite else -1
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in table.rows:
        key = (suite if problem < 0 else
               table.text(row, problem, columns.suite, "--suite-column"),
               table.text(row, optimizer, columns.optimizer, "--optimizer"),
               table.text(row, trial, columns.trial, "--trial"))
        found.setdefault(key, []).append(row)
    return found


def _trial(table: LogTable, columns: CsvColumns, key: tuple[str, str, str], rows: list[Row],
           metric: str, tuning_free: bool) -> LoggedTrial:
    problem, label, name = key
    step = table.place(columns.step, "--step")
    value = table.place(metric, "--metric or --targets")
    optional = [(column, table.place(column, option) if column else -1) for column, option in (
        (columns.time, "--time"), (columns.wall, "--wall"), (columns.samples, "--samples"))]
    evals = []
    for row in rows:
        measured = table.number(row, value, metric)
        time, wall, samples = (table.number(row, place, column) if column else None
                               for column, place in optional)
        where = f"{table.path}, line {row[0]}"
        evals.append(LoggedEval(
            parse_count(table.number(row, step, columns.step), where, columns.step), time, wall,
            None if samples is None else parse_count(samples, where, columns.samples),
            {metric: measured} if math.isfinite(measured) else {}))
    status = _constant(table, rows, columns.status, "--status") if columns.status else None
    if status is not None and status not in _STATUSES:
        raise UserError(f"{table.path}, line {rows[0][0]}: column '{columns.status}' has "
                        f"'{status}'; name it as one of {', '.join(_STATUSES)}")
    return LoggedTrial(
        problem, label, name, f"{table.path.name}: {name}", "report" if tuning_free else "tune",
        ordered(evals, f"{table.path}, trial '{name}' of {label}",
                (columns.step, columns.time, columns.wall, columns.samples)),
        tuning_free=tuning_free,
        hyperparameters={column: parse_scalar(
            _constant(table, rows, column, "--hyperparameters"))
            for column in columns.hyperparameters} if columns.hyperparameters else (
                {} if tuning_free else None),
        status=status)  # type: ignore[arg-type]


def _constant(table: LogTable, rows: list[Row], column: str, option: str) -> str:
    """Return what a column says of a trial, the same in all of its lines."""
    place = table.place(column, option)
    first = rows[0][1][place].strip()
    for number, fields in rows:
        if fields[place].strip() != first:
            raise UserError(f"{table.path}, line {number}: column '{column}' has "
                            f"'{fields[place]}', but '{first}' earlier in the same trial; leave "
                            f"it out of {option}, or give the trials different names")
    return first


def parse_scalar(text: str) -> Scalar:
    """Read a hyperparameter as a truth value, an integer or a number; else it stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        return found if math.isfinite(found) else text
    return text
