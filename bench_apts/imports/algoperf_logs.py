"""AlgoPerf's logs: ``SUBMISSION/study_K/WORKLOAD_FRAMEWORK/trial_J/eval_measurements.csv``.

The trials of all studies of a submission are the draws of one search: with external tuning each
study drew its configurations independently. Self-tuning submissions have one trial in a study;
they are not tuned, and their trials are seeds.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.errors import UserError
from bench_apts.core.files import require_folder
from bench_apts.imports.imported_study import LoggedEval, LoggedTrial
from bench_apts.imports.log_table import ordered, parse_count, read_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from bench_apts.imports.imported_study import LoggedTarget

_FILE = "eval_measurements.csv"
_SELF = "self_tuning"
_SPLIT = "validation/"
_COLUMNS = ("global_step", "accumulated_submission_time", "total_duration")
_FOLDER = re.compile(r"(?P<workload>.+)_(?P<framework>jax|pytorch)")


class AlgoperfLog(NamedTuple):
    """One file of measurements, and what its folders say of it.

    ``problem`` is the workload; a variant of a base workload is called ``BASE@VARIANT``.
    """

    path: Path
    label: str
    self_tuning: bool
    study: int
    problem: str
    trial: int
    source: str


def find_logs(folder: Path, targets: dict[str, LoggedTarget], base: Sequence[str],
              wanted: Collection[str]) -> tuple[list[AlgoperfLog], Counter[str]]:
    """Find the logs below a folder.

    Args:
        folder: Of submissions, or of ``external_tuning`` and ``self_tuning``, which hold them.
        targets: By workload.
        base: Workloads of which others are variants.
        wanted: Workloads to import; empty for all with a target.

    Returns:
        The logs by submission, workload, study and trial; and how many were left out, by the
        workload, as it has no target or is not wanted.

    Raises:
        UserError: The folder does not exist or holds no log.
    """
    require_folder(folder, "unpack the logs and name the folder that holds them")
    found, left_out = [], Counter[str]()
    for path in folder.rglob(_FILE):
        parts = path.resolve().parts[-6:]
        match = _FOLDER.fullmatch(parts[-3])
        study, trial = _number(parts[-4], "study"), _number(parts[-2], "trial")
        if len(parts) < 6 or match is None or study is None or trial is None:
            raise UserError(f"{path} does not lie in SUBMISSION/study_K/WORKLOAD_FRAMEWORK/"
                            "trial_J; name a folder with AlgoPerf's logs")
        workload = match["workload"]
        if workload not in targets or (wanted and workload not in wanted):
            left_out[workload] += 1
            continue
        own = parts[0] == _SELF
        found.append(AlgoperfLog(
            path, parts[1] + ("-self" if own else ""), own, study, problem_name(workload, base),
            trial, "/".join(parts)))
    if not found and not left_out:
        raise UserError(f"{folder} has no {_FILE} below it; name a folder with AlgoPerf's logs")
    return sorted(found, key=lambda log: (log.label, log.problem, log.study, log.trial)), left_out


def problem_name(workload: str, base: Sequence[str]) -> str:
    """Return the name of a workload: ``fastmri_tanh`` is ``fastmri@tanh`` if ``fastmri`` is one.

    A suite with its variants is one problem where problems are counted.
    """
    of = max((name for name in base if workload.startswith(f"{name}_")), key=len, default="")
    return f"{of}@{workload[len(of) + 1:]}" if of and workload not in base else workload


def read_logs(logs: Sequence[AlgoperfLog], metrics: dict[str, str]) -> Iterator[LoggedTrial]:
    """Read logs one by one.

    Args:
        logs: As ``find_logs`` returns them.
        metrics: The target's metric by problem, which each log must have.

    Raises:
        UserError: A file is not what it should be.
    """
    for log in logs:
        yield LoggedTrial(
            log.problem, log.label, f"study_{log.study}/trial_{log.trial}", log.source,
            "report" if log.self_tuning else "tune", _evals(log, metrics[log.problem]),
            tuning_free=log.self_tuning, hyperparameters={} if log.self_tuning else None)


def incomplete(logs: Sequence[AlgoperfLog]) -> dict[str, str]:
    """Say of each submission that has fewer trials than others what is missing.

    Compared is within external tuning and within self-tuning, with the most trials that any
    submission has on a problem.
    """
    counts: Counter[tuple[bool, str, str]] = Counter(
        (log.self_tuning, log.label, log.problem) for log in logs)
    most: dict[tuple[bool, str], int] = defaultdict(int)
    for (own, _, problem), number in counts.items():
        most[own, problem] = max(most[own, problem], number)
    lacking: dict[str, list[str]] = defaultdict(list)
    for own, label in dict.fromkeys((log.self_tuning, log.label) for log in logs):
        for (kind, problem), number in most.items():
            have = counts[own, label, problem]
            if kind == own and have < number:
                lacking[label].append(f"{have} of {number} on {problem}")
    return {label: ", ".join(parts) for label, parts in lacking.items()}


def _number(folder: str, kind: str) -> int | None:
    match = re.fullmatch(rf"{kind}_(\d+)", folder)
    return int(match[1]) if match else None


def _evals(log: AlgoperfLog, metric: str) -> list[LoggedEval]:
    table = read_table(log.path)
    step, train, wall = (table.place(column, "another --targets or LOGDIR")
                         for column in _COLUMNS)
    table.place(_SPLIT + metric, "--targets, whose metric it is")
    metrics = [(name.removeprefix(_SPLIT), place, name) for name, place in table.columns.items()
               if name.startswith(_SPLIT)]
    evals = []
    for row in table.rows:
        values = ((short, table.number(row, place, name)) for short, place, name in metrics)
        evals.append(LoggedEval(
            parse_count(table.number(row, step, _COLUMNS[0]), f"{log.path}, line {row[0]}",
                        _COLUMNS[0]),
            table.number(row, train, _COLUMNS[1]), table.number(row, wall, _COLUMNS[2]), None,
            {short: value for short, value in values if math.isfinite(value)}))
    return ordered(evals, str(log.path), _COLUMNS)
