"""Read what asv stored over commits: ``.asv/results/<machine>/<commit>-….json``, its format 2."""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT = 2
"""asv's ``Results.api_version`` and ``Benchmarks.api_version`` that are read."""


class Measured(NamedTuple):
    """One number at one commit.

    Attributes:
        date: Of the commit, in milliseconds since 1970.
        ran: When the commit was measured first, likewise; tells commits of one date apart, which
            a rebase leaves behind.
        commit: Its hash.
        value: None where the benchmark failed.
    """

    date: int
    ran: int
    commit: str
    value: float | None


class BenchmarkLine(NamedTuple):
    """One benchmark with one combination of its parameters on one machine.

    Attributes:
        machine: asv's name of it.
        benchmark: Its full name.
        parameters: Their values as text, "" without any.
        unit: As the benchmark gives it.
        points: By the commits' dates.
    """

    machine: str
    benchmark: str
    parameters: str
    unit: str
    points: tuple[Measured, ...]

    @property
    def known(self) -> list[Measured]:
        """The points with a number."""
        return [point for point in self.points if point.value is not None]

    @property
    def ratio(self) -> float:
        """Latest over first number, infinite where the first is 0; NaN if there are not two."""
        known = self.known
        if len(known) < 2:
            return math.nan
        first, last = known[0].value, known[-1].value
        assert first is not None
        assert last is not None
        return 1.0 if first == last else last / first if first else math.inf

    @property
    def changed(self) -> bool:
        """Whether the number varied over the commits."""
        return len({point.value for point in self.known}) > 1

    @property
    def fails(self) -> bool:
        """Whether there is no number at its latest commit."""
        return self.points[-1].value is None


class History(NamedTuple):
    """All lines, and how many numbers another version of a benchmark left out."""

    lines: tuple[BenchmarkLine, ...]
    outdated: int

    @property
    def commits(self) -> list[str]:
        """Hashes of all commits by their dates."""
        found: dict[str, tuple[int, int, str]] = {}
        for point in (p for line in self.lines for p in line.points):
            # Several machines measure a commit at several times.
            found[point.commit] = min(point[:3], found.get(point.commit, point[:3]))
        return sorted(found, key=lambda commit: found[commit])


class _Benchmark(msgspec.Struct):
    """What asv knows of a benchmark in ``benchmarks.json``."""

    unit: str = ""
    version: str = ""


class _ResultFile(msgspec.Struct):
    """One result file; ``results`` holds rows in the order of ``result_columns``."""

    commit_hash: str
    date: int
    params: dict[str, Any]
    result_columns: list[str]
    results: dict[str, list[Any]]
    version: int


def read_history(folder: Path) -> History:
    """Read all result files below a folder.

    Numbers of another version of a benchmark than the present one mean something else and are
    left out, as asv does; without ``benchmarks.json`` that is unknown, and all count.

    Args:
        folder: asv's ``results_dir``.

    Raises:
        UserError: There is no result, or a file is not of asv's format 2.
    """
    benchmarks = _benchmarks(folder / "benchmarks.json")
    found: dict[tuple[str, str, str], list[Measured]] = {}
    outdated = 0
    paths = sorted(p for p in folder.glob("*/*.json") if p.name != "machine.json")
    for path in paths:
        file = _decode(path, _ResultFile)
        if file.version != _FORMAT:
            raise UserError(f"{path} has format {file.version} of asv, not {_FORMAT}; "
                            "`asv update` brings older ones up to date")
        machine = str(file.params.get("machine", path.parent.name))
        entries = {name: dict(zip(file.result_columns, row, strict=False))
                   for name, row in file.results.items()}
        ran = min((entry.get("started_at") or 0 for entry in entries.values()), default=0)
        for name, entry in entries.items():
            known = benchmarks.get(name)
            if known and entry.get("version") not in (None, known.version):
                outdated += len(entry.get("result") or [])
                continue
            for parameters, value in _values(path, name, entry):
                found.setdefault((machine, name, parameters), []).append(
                    Measured(file.date, ran, file.commit_hash, value))
    if not found:
        raise UserError(f"{folder} holds no results of asv; `asv run` writes them to "
                        ".asv/results/<machine>/, see docs/regressions.md")
    return History(tuple(
        BenchmarkLine(machine, name, parameters,
                      benchmarks[name].unit if name in benchmarks else "",
                      tuple(sorted(points, key=lambda point: point[:3])))
        for (machine, name, parameters), points in found.items()), outdated)


def _values(path: Path, name: str, entry: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Pair each combination of parameters with its number, skipped ones left out."""
    values = entry.get("result")
    places = [", ".join(value.strip("'\"") for value in combination)
              for combination in itertools.product(*(entry.get("params") or []))]
    if values is None:  # asv's way to say that all failed
        values = [None] * len(places)
    if len(values) != len(places):
        raise UserError(f"{path}: {name} has {len(values)} numbers for {len(places)} "
                        "combinations of its parameters; remove the file and run asv again")
    for place, value in zip(places, values, strict=True):
        if value is None or not math.isnan(value):
            yield place, value


def _benchmarks(path: Path) -> dict[str, _Benchmark]:
    if not path.exists():
        return {}
    entries = _decode(path, dict[str, Any])
    return {name: msgspec.convert(entry, _Benchmark) for name, entry in entries.items()
            if isinstance(entry, dict)}


def _decode(path: Path, kind: type[Any]) -> Any:
    try:
        # asv writes NaN for a benchmark that was skipped, which strict JSON does not have.
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a result file of asv's format {_FORMAT}: {error}; remove "
                        "it, or name another folder with --history") from error
