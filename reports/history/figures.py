"""Figures over commits: every number relative to its first, those that changed labelled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .. import units
from ..drawing.canvas import Figure, finish, heading, panel, plain, scale
from ..drawing.style import INK, LOOKS, MUTED
from ..table import Table, Value, mono, number, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from .commits import History, Line

_LABELLED = 8
"""Lines that are coloured and named at most, those that changed the most."""


def figures(found: History) -> list[Figure]:
    """Draws each benchmark on each machine that ran at two commits or more."""
    kinds = dict.fromkeys((line.machine, line.benchmark) for line in found.lines)
    groups = [[line for line in found.lines if (line.machine, line.benchmark) == kind]
              for kind in kinds]
    return [figure for index, lines in enumerate(groups)
            if (figure := _figure(found.commits, lines, index))]


def _figure(commits: Sequence[str], lines: Sequence[Line], index: int) -> Figure | None:
    drawn = [line for line in lines if len(line.known) > 1 and line.known[0].value]
    if not drawn:
        return None
    here = [commit for commit in commits
            if any(p.commit == commit for line in lines for p in line.points)]
    moved = sorted((line for line in drawn if line.changed),
                   key=lambda line: -abs(math.log(max(line.ratio, 1e-9))))[:_LABELLED]
    drawing, axes = panel(4.9, 2.6, right=1.35)
    values: list[float] = [1.0]
    for line in drawn:
        first = line.known[0].value
        assert first is not None
        look = LOOKS[moved.index(line)] if line in moved else None
        points = [(here.index(p.commit), p.value / first) for p in line.known
                  if p.value is not None]
        values += [value for _, value in points]
        axes.plot(*zip(*points, strict=True), color=look.color if look else MUTED,
                  linewidth=1.8 if look else 1.0, linestyle=look.dashes if look else "-",
                  marker=look.marker if look else "", markersize=4, markeredgewidth=0,
                  zorder=3 if look else 2)
    low, high = min(values), max(values)
    room = 0.08 * ((high - low) or 1.0)
    scale(axes, "y", units.digits, limits=(low - room, high + room))
    axes.set_xlim(-0.3, len(here) - 0.7)
    step = math.ceil(len(here) / 6)
    axes.set_xticks(range(0, len(here), step), [commit[:7] for commit in here[::step]])
    axes.set_xlabel("commit, by date")
    _labels(axes, moved, high - low + 2 * room)
    kind = _short(lines[0].benchmark)
    unit = f" in {lines[0].unit}" if lines[0].unit else ""
    heading(axes, f"{kind}{unit}, relative to the first commit")
    return finish(
        drawing, f"history-{index}", f"{kind} on {lines[0].machine} over commits",
        _caption(lines, drawn, moved), {},
        basis=f"{units.plural(len(here), 'commit')}, {units.plural(len(lines), 'number')} each, "
              f"on {lines[0].machine}. Lower is better.",
        data=_points(lines))


def _labels(axes: Axes, moved: Sequence[Line], extent: float) -> None:
    """Names the lines at their ends, apart from one another."""
    below = math.inf
    for line in sorted(moved, key=lambda line: -line.ratio):
        below = min(line.ratio, below - 0.075 * extent)
        axes.annotate(
            plain(line.parameters or "all", 20), (1, below),
            xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", color=INK, fontsize=8, annotation_clip=False)


def _caption(lines: Sequence[Line], drawn: Sequence[Line], moved: Sequence[Line]) -> str:
    failing = [line.parameters or "the benchmark" for line in lines if line.fails]
    told = f" Failed at the latest commit: {units.listing(failing)}." if failing else ""
    changed = [line for line in drawn if line.changed]
    if not changed:
        return f"None of {units.plural(len(drawn), 'number')} changed.{told}"
    parts = [f"{line.parameters or 'the number'} {units.times(line.ratio)}" for line in moved]
    return (f"{len(changed)} of {units.plural(len(drawn), 'number')} changed; latest over first: "
            f"{units.listing(parts)}. Grey: the others.{told}")


def table(found: History) -> Table:
    """First and latest number of each line, the changed ones first."""
    ordered = sorted(found.lines, key=lambda line: (not (line.changed or line.fails),
                                                    line.machine, line.benchmark,
                                                    line.parameters))
    rows = tuple((
        mono(_short(line.benchmark), line.unit, benchmark=line.benchmark, unit=line.unit),
        words(line.parameters or units.NONE, parameters=line.parameters),
        words(line.machine, machine=line.machine),
        number(str(len(line.points)), commits=len(line.points)),
        _value("first", line.points[0].value), _value("latest", line.points[-1].value),
        number(units.digits(line.ratio) if math.isfinite(line.ratio) else units.NONE,
               ratio=line.ratio if math.isfinite(line.ratio) else None)) for line in ordered)
    return Table(
        "history", "Numbers over commits",
        "From asv's result files. First and latest: at the earliest and the latest commit by "
        "date; “failed”: the benchmark gave no number there. Ratio: latest over first number; "
        "lower is better." + (f" Left out: {units.plural(found.outdated, 'number')} of other "
                              "versions of their benchmarks." if found.outdated else ""),
        (("Benchmark", ""), ("Parameters", ""), ("Machine", ""), ("Commits", ""), ("First", ""),
         ("Latest", ""), ("Ratio", "")), rows)


def _value(column: str, value: float | None) -> Value:
    if value is None:
        return Value("failed", numbers={column: None}, kind="number missed")
    return Value(units.trim(units.digits(value, 6)), numbers={column: value})


def _points(lines: Sequence[Line]) -> Table:
    rows = tuple((mono(_short(line.benchmark), benchmark=line.benchmark),
                  words(line.parameters or units.NONE, machine=line.machine,
                        parameters=line.parameters),
                  mono(point.commit[:7], commit=point.commit, date=point.date),
                  _value("value", point.value)) for line in lines for point in line.points)
    return Table("history-points", f"{_short(lines[0].benchmark)} at each commit",
                 "Numbers as asv stored them.",
                 (("Benchmark", ""), ("Parameters", ""), ("Commit", ""), ("Value", lines[0].unit)),
                 rows)


def _short(benchmark: str) -> str:
    """Drops module and prefix: ``per_step.track_bytes_per_step`` is ``bytes per step``."""
    return benchmark.rpartition(".")[2].removeprefix("track_").replace("_", " ")
