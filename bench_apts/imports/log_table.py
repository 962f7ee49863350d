"""Tables in CSV files, and errors that name the file, the column and what to do."""

from __future__ import annotations

import csv
import difflib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench_apts.core.errors import UserError
from bench_apts.core.files import require_regular_file
from bench_apts.imports.imported_study import LoggedEval, LoggedTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FALLING = frozenset({"loss", "wer", "error", "perplexity"})
"""Metrics that are to fall where a file of targets does not say the direction."""

Row = tuple[int, list[str]]
"""The number of a line in its file, and its fields."""


@dataclass(frozen=True)
class LogTable:
    """A CSV file in memory.

    Attributes:
        path: The file.
        columns: Place of each column by its name.
        rows: Lines that are not empty.
    """

    path: Path
    columns: dict[str, int]
    rows: list[Row]

    def place(self, column: str, option: str) -> int:
        """Return the place of a column that ``option`` names.

        Raises:
            UserError: The column does not exist.
        """
        if column in self.columns:
            return self.columns[column]
        close = difflib.get_close_matches(column, self.columns, n=1)
        guess = f", perhaps '{close[0]}'" if close else ""
        names = ", ".join(list(self.columns)[:20]) or "none"
        raise UserError(f"{self.path} has no column '{column}'; name one with {option}{guess}: "
                        f"{names}")

    def text(self, row: Row, place: int, column: str, option: str) -> str:
        """Return a field that must not be empty.

        Raises:
            UserError: It is empty.
        """
        found = row[1][place].strip()
        if not found:
            raise UserError(f"{self.path}, line {row[0]}: column '{column}' is empty; fill it in, "
                            f"or name another column with {option}")
        return found

    def number(self, row: Row, place: int, column: str) -> float:
        """Return a field as a number, NaN where it is empty.

        Raises:
            UserError: It is something else.
        """
        text = row[1][place]
        try:
            return float(text) if text.strip() else math.nan
        except ValueError:
            raise UserError(f"{self.path}, line {row[0]}: column '{column}' has '{text[:50]}', "
                            "which is not a number; correct it or leave it empty") from None


def read_table(path: Path) -> LogTable:
    """Read a CSV file with a line of column names.

    Raises:
        UserError: It cannot be read, is empty, or a line has more or fewer fields.
    """
    require_regular_file(path, "name a CSV file with a line of column names")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            rows = [(lines.line_num, fields) for fields in lines if fields]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}); export it again") from error
    names = [name.strip() for name in head]
    if not any(names):
        raise UserError(f"{path} is empty; name a CSV file with a line of column names")
    for number, fields in rows:
        if len(fields) != len(names):
            raise UserError(f"{path}, line {number}: {len(fields)} fields, but {len(names)} "
                            "columns; quote fields that hold commas")
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"{path} has the column '{twice}' twice; rename one")
    return LogTable(path, {name: place for place, name in enumerate(names)}, rows)


def ordered(evals: Iterable[LoggedEval], source: str, columns: Sequence[str]) -> list[LoggedEval]:
    """Sort evaluations by step, and refuse what runs backwards: time and samples add up.

    Args:
        evals: Of one trial.
        source: The trial and its file, for errors.
        columns: Names of the columns of steps, training time, wall time and samples.

    Raises:
        UserError: A number is negative, or smaller than at an earlier step.
    """
    found = sorted(evals, key=lambda each: each.step)
    before: LoggedEval | None = None
    for each in found:
        for place, column in enumerate(columns):
            value, earlier = each[:4][place], before[:4][place] if before else 0
            if value is None:
                continue
            if not math.isfinite(value):
                raise UserError(f"{source}: column '{column}' is empty or not finite at step "
                                f"{each.step}; fill it in, or name another column")
            if value < (earlier or 0):
                raise UserError(
                    f"{source}: column '{column}' runs backwards at step {each.step}: "
                    f"{earlier:g}, then {value:g}; count it from the trial's beginning, and give "
                    "each trial a name of its own")
        before = each
    return found


def parse_count(value: float, source: str, column: str) -> int:
    """Return a number of steps or samples.

    Raises:
        UserError: It is missing, negative, or not a whole number.
    """
    if not (math.isfinite(value) and 0 <= value < 2**63 and value == int(value)):
        raise UserError(f"{source}: column '{column}' has {value:g}, which counts nothing; "
                        "name a column of whole numbers")
    return int(value)


def read_targets(path: Path) -> tuple[dict[str, LoggedTarget], tuple[str, ...]]:
    """Read a file of targets: JSON with ``workloads`` by name, and perhaps ``base_workloads``.

    A workload has ``target_metric_name``, ``validation_target_value`` and perhaps ``direction``
    (``max`` or ``min``; else losses and error rates fall, and all others grow).

    Returns:
        The targets, and the workloads of which others are variants.

    Raises:
        UserError: It cannot be read, or a key is missing or has another type.
    """
    require_regular_file(path, "name a JSON file of targets", "--targets")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"--targets {path}: {error.strerror}; name a JSON file") from error
    except ValueError as error:
        raise UserError(f"--targets {path} is not valid JSON ({error}); see "
                        "docs/importing.md") from error
    workloads = content.get("workloads") if isinstance(content, dict) else None
    if not isinstance(workloads, dict):
        raise UserError(f"--targets {path} has no object 'workloads'; see docs/importing.md")
    found = {name: _target(path, name, entry) for name, entry in workloads.items()}
    base = content.get("base_workloads", [])
    if not isinstance(base, list) or not all(name in found for name in base):
        raise UserError(f"--targets {path}: 'base_workloads' must list names in 'workloads'")
    return found, tuple(base)


def _target(path: Path, name: str, entry: object) -> LoggedTarget:
    def get(key: str, kind: type | tuple[type, ...], otherwise: object = None) -> object:
        value = entry.get(key, otherwise) if isinstance(entry, dict) else None
        if not isinstance(value, kind):
            raise UserError(f"--targets {path}: workload '{name}' needs '{key}', see "
                            "docs/importing.md")
        return value

    metric = str(get("target_metric_name", str))
    direction: Literal["max", "min"] = "max"
    if get("direction", str, "min" if metric in _FALLING else "max") == "min":
        direction = "min"
    value = get("validation_target_value", (int, float))
    assert isinstance(value, int | float)
    note = str(get("note", str, ""))
    return LoggedTarget(metric, direction, float(value),
                        f"{path.name}{': ' if note else ''}{note}")
