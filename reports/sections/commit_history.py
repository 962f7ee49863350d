"""History over commits: what asv's benchmarks counted, drawn from its result files.

Figures over commits: numbers relative to their first, those that changed labelled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports.canvas import Figure, finish, heading, panel, plain, scale
from bench_apts.reports.figure_style import INK, LOOKS, MUTED
from bench_apts.reports.section_parts import Block, Listing, Pictures, Section
from bench_apts.reports.table import Table, Value, mono, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from bench_apts.reports.asv_results import BenchmarkLine, History
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Part, StudyContext

_LABELLED = 8
"""Groups of lines that are coloured and named at most, those that changed the most."""


def history_figures(found: History) -> list[Figure]:
    """Draws each benchmark, on each machine, that changed or failed; the table has all."""
    kinds = dict.fromkeys((line.machine, line.benchmark) for line in found.lines)
    groups = [[line for line in found.lines if (line.machine, line.benchmark) == kind]
              for kind in kinds]
    return [figure for index, lines in enumerate(groups)
            if (figure := _figure(found.commits, lines, index))]


def _figure(commits: Sequence[str], lines: Sequence[BenchmarkLine], index: int) -> Figure | None:
    drawn = [line for line in lines if len(line.known) > 1 and line.known[0].value]
    failed = {point.commit for line in lines for point in line.points if point.value is None}
    if not drawn or not (failed or any(line.changed for line in drawn)):
        return None
    here = [commit for commit in commits
            if any(p.commit == commit for line in lines for p in line.points)]
    moved = _changed_lines(drawn)
    looks = {id(line): look for look, group in zip(LOOKS, moved[:_LABELLED], strict=False)
             for line in group}
    drawing, axes = panel(4.9, 2.6, right=1.5)
    low, high = _courses(axes, drawn, here, looks)
    crosses = sorted(map(here.index, failed))
    axes.plot(crosses, [low] * len(crosses), linestyle="", marker="x", markersize=6, color=INK,
              clip_on=False)
    scale(axes, "y", units.digits, limits=(low, high))
    axes.set_xlim(-0.3, len(here) - 0.7)
    step = math.ceil(len(here) / 6)
    axes.set_xticks(range(0, len(here), step), [commit[:7] for commit in here[::step]])
    axes.set_xlabel("commit, by date")
    _labels(axes, moved[:_LABELLED], high - low)
    kind = short_name(lines[0].benchmark)
    heading(axes, f"{kind}, relative to the first commit")
    return finish(
        drawing, f"history-{index}", f"{kind} on {lines[0].machine} over commits",
        _caption(lines, drawn, moved), {},
        basis=f"{units.plural(len(here), 'commit')} and {units.plural(len(lines), 'number')} on "
              f"{lines[0].machine}. Lower is better.",
        data=_points(lines))


def _changed_lines(drawn: Sequence[BenchmarkLine]) -> list[list[BenchmarkLine]]:
    """Groups the lines that changed by their ratio, as equal ones lie on one another."""
    groups: dict[str, list[BenchmarkLine]] = {}
    for line in drawn:
        if line.changed:
            groups.setdefault(units.digits(line.ratio), []).append(line)
    return sorted(groups.values(), key=lambda group: -abs(math.log(max(group[0].ratio, 1e-9))))


def _courses(axes: Axes, drawn: Sequence[BenchmarkLine], here: Sequence[str],
             looks: Mapping[int, Look]) -> tuple[float, float]:
    """Draws each line over its first number; returns the ends of the axis."""
    values: list[float] = [1.0]
    for line in drawn:
        first = line.known[0].value
        assert first is not None
        look = looks.get(id(line))
        points = [(here.index(p.commit), p.value / first) for p in line.known
                  if p.value is not None]
        values += [value for _, value in points]
        axes.plot(*zip(*points, strict=True), color=look.color if look else MUTED,
                  linewidth=1.8 if look else 1.0, linestyle=look.dashes if look else "-",
                  marker=look.marker if look else "", markersize=4, markeredgewidth=0,
                  zorder=3 if look else 2)
    room = 0.08 * ((max(values) - min(values)) or 1.0)
    return min(values) - room, max(values) + room


def _labels(axes: Axes, moved: Sequence[Sequence[BenchmarkLine]], extent: float) -> None:
    """Names the lines at their ends with their marks, apart from one another."""
    below = math.inf
    beside = axes.get_yaxis_transform()
    for look, group in sorted(zip(LOOKS, moved, strict=False),
                              key=lambda pair: -pair[1][0].ratio):
        below = min(group[0].ratio, below - 0.075 * extent)
        axes.plot([1.03], [below], transform=beside, clip_on=False, color=look.color,
                  marker=look.marker, markersize=4, markeredgewidth=0)
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        axes.annotate(
            plain(_name(group[0]), 22 - len(more)) + more, (1.03, below), xycoords=beside,
            xytext=(6, 0), textcoords="offset points", va="center", color=INK, fontsize=8,
            annotation_clip=False)


def _caption(
    lines: Sequence[BenchmarkLine],
    drawn: Sequence[BenchmarkLine],
    moved: Sequence[Sequence[BenchmarkLine]],
) -> str:
    failing = [_name(line) for line in lines if line.fails]
    hidden = [_name(line) for line in lines if line not in drawn]
    parts = [f"{units.listing([_name(line) for line in group])} {units.times(group[0].ratio)}"
             for group in moved]
    text = (f"{sum(map(len, moved))} of {units.plural(len(drawn), 'number')} changed; latest over "
            f"first: {'; '.join(parts)}." if moved else
            f"None of {units.plural(len(drawn), 'number')} changed.")
    if moved and (len(moved) > _LABELLED or sum(map(len, moved)) < len(drawn)):
        text += " Grey: the others."
    if any(point.value is None for line in lines for point in line.points):
        text += " Crosses: a benchmark failed there."
    if failing:
        text += f" Failed at the latest commit: {units.listing(failing)}."
    if hidden:
        text += f" Not drawn, with one number or a first of 0: {units.listing(hidden)}."
    return text


def _name(line: BenchmarkLine) -> str:
    return line.parameters or "the benchmark"


def history_table(found: History) -> Table:
    """First and latest number of each line, the changed ones first."""
    ordered = sorted(found.lines, key=lambda line: (not (line.changed or line.fails),
                                                    line.machine, line.benchmark,
                                                    line.parameters))
    rows = tuple((
        mono(short_name(line.benchmark), line.unit, benchmark=line.benchmark, unit=line.unit),
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


def _points(lines: Sequence[BenchmarkLine]) -> Table:
    rows = tuple((mono(short_name(line.benchmark), benchmark=line.benchmark),
                  words(line.parameters or units.NONE, machine=line.machine,
                        parameters=line.parameters),
                  mono(point.commit[:7], commit=point.commit, date=point.date),
                  _value("value", point.value)) for line in lines for point in line.points)
    return Table("history-points", f"{short_name(lines[0].benchmark)} at each commit",
                 "Numbers as asv stored them.",
                 (("Benchmark", ""), ("Parameters", ""), ("Commit", ""), ("Value", lines[0].unit)),
                 rows)


def short_name(benchmark: str) -> str:
    """Drops module and prefix: ``per_step.track_bytes_per_step`` is ``bytes per step``."""
    return benchmark.rpartition(".")[2].removeprefix("track_").replace("_", " ")


SECTION = Section("history", "History over commits", order=120, study=True)


def part(study: StudyContext) -> Part | None:
    """Builds the section, which is about the code and not about a suite; None without results."""
    found = study.history
    if found is None:
        return None
    drawn = history_figures(found)
    blocks: list[Block] = [Pictures(tuple(drawn), wide=True)] if drawn else []
    blocks.append(Listing(history_table(found), folded=bool(drawn)))
    return SECTION.part(_finding(found), tuple(blocks))


def _finding(found: History) -> str:
    commits = found.commits
    lines = units.plural(len(found.lines), "number")
    if len(commits) == 1:
        return f"asv has stored {lines} at one commit, {commits[0][:7]}; nothing to compare yet."
    span = (f"over {units.plural(len(commits), 'commit')}, {commits[0][:7]} to "
            f"{commits[-1][:7]}")
    failed = sum(line.fails for line in found.lines)
    worse = [line for line in found.lines if line.ratio > 1]
    better = sum(line.ratio < 1 for line in found.lines)
    back = sum(line.ratio == 1 and line.changed for line in found.lines)
    text = (f"Of {lines} {span}, {len(worse)} grew and {better} fell"
            + (f", and {back} changed and came back" if back else "")
            if worse or better or back else f"None of {lines} changed {span}")
    if worse:
        worst = max(worse, key=lambda line: line.ratio)
        text += (f"; the most {short_name(worst.benchmark)}"
                 f"{f' of {worst.parameters}' if worst.parameters else ''}, "
                 + (f"{units.times(worst.ratio)} its first" if math.isfinite(worst.ratio)
                    else "whose first is 0"))
    if failed:
        text += f"; {units.plural(failed, 'benchmark')} failed at the latest commit"
    return text + "."
