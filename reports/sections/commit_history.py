"""History over commits: what asv's benchmarks counted, relative to their first numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench_apts.core import units
from bench_apts.reports import canvas
from bench_apts.reports.figure_style import INK, LOOKS, MUTED
from bench_apts.reports.section_parts import Block, Listing, Pictures, Section
from bench_apts.reports.table import Table, Value, known, mono, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.asv_results import BenchmarkLine, History
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Part, StudyContext

SECTION = Section("history", "History over commits", order=120, study=True)

_LABELLED = 8
"""Groups of lines that are coloured and named at most, those that changed the most."""


def part(study: StudyContext) -> Part | None:
    """Build the section, which is about the code and not about a suite; None without results."""
    found = study.history
    if found is None:
        return None
    kinds = dict.fromkeys((line.machine, line.benchmark) for line in found.lines)
    groups = [[line for line in found.lines if (line.machine, line.benchmark) == kind]
              for kind in kinds]
    drawn = [figure for index, lines in enumerate(groups)
             if (figure := _figure(found.commits, lines, index))]
    blocks: list[Block] = [Pictures(tuple(drawn))] if drawn else []
    return SECTION.part(_finding(found), [*blocks, Listing(_table(found), folded=bool(drawn))])


def _finding(found: History) -> str:
    commits, lines = found.commits, units.plural(len(found.lines), "number")
    if len(commits) == 1:
        return f"asv has stored {lines} at one commit, {commits[0][:7]}; nothing to compare yet."
    span = f"over {units.plural(len(commits), 'commit')}, {commits[0][:7]} to {commits[-1][:7]}"
    worse = [line for line in found.lines if line.ratio > 1]
    better = sum(line.ratio < 1 for line in found.lines)
    back = sum(line.ratio == 1 and line.changed for line in found.lines)
    text = f"None of {lines} changed {span}"
    if worse or better or back:
        text = f"Of {lines} {span}, {len(worse)} grew and {better} fell"
        text += f", and {back} changed and came back" if back else ""
    if worse:
        worst = max(worse, key=lambda line: line.ratio)
        text += (f"; the most {_short(worst.benchmark)}"
                 f"{f' of {worst.parameters}' if worst.parameters else ''}, "
                 + (f"{units.times(worst.ratio)} its first" if math.isfinite(worst.ratio)
                    else "whose first is 0"))
    failed = sum(line.fails for line in found.lines)
    if failed:
        text += f"; {units.plural(failed, 'benchmark')} failed at the latest commit"
    return text + "."


def _short(benchmark: str) -> str:
    """Drop module and prefix: ``per_step.track_bytes_per_step`` is ``bytes per step``."""
    return benchmark.rpartition(".")[2].removeprefix("track_").replace("_", " ")


def _figure(commits: Sequence[str], lines: Sequence[BenchmarkLine],
            index: int) -> canvas.Figure | None:
    """Draw a benchmark on a machine if it changed or failed; the table has all."""
    drawn = [line for line in lines if len(line.known) > 1 and line.known[0].value]
    failed = {point.commit for line in lines for point in line.points if point.value is None}
    if not drawn or not (failed or any(line.changed for line in drawn)):
        return None
    here = [commit for commit in commits
            if any(p.commit == commit for line in lines for p in line.points)]
    # Lines that changed by the same ratio lie on one another, and share a look.
    groups: dict[str, list[BenchmarkLine]] = {}
    for line in drawn:
        if line.changed:
            groups.setdefault(units.digits(line.ratio), []).append(line)
    changed = sorted(groups.values(), key=lambda group: -abs(math.log(max(group[0].ratio, 1e-9))))
    named = [*zip(LOOKS, changed[:_LABELLED], strict=False)]
    kind = _short(lines[0].benchmark)

    def draw() -> Drawing:
        drawing, axes = canvas.panel(4.9, 2.6, right=1.5)
        low, high = _draw_lines(axes, drawn, here, {id(line): look for look, group in named
                                                    for line in group})
        axes.plot(sorted(map(here.index, failed)), [low] * len(failed), linestyle="", marker="x",
                  markersize=6, color=INK, clip_on=False)
        canvas.scale(axes, "y", units.digits, limits=(low, high))
        axes.set_xlim(-0.3, len(here) - 0.7)
        step = math.ceil(len(here) / 6)
        axes.set_xticks(range(0, len(here), step), [commit[:7] for commit in here[::step]])
        axes.set_xlabel("commit, by date")
        _write_names(axes, named, high - low)
        canvas.heading(axes, f"{kind}, relative to the first commit")
        return drawing

    return canvas.Figure(
        draw, f"history-{index}", f"{kind} on {lines[0].machine} over commits",
        _caption(lines, drawn, changed), {},
        basis=f"{units.plural(len(here), 'commit')} and {units.plural(len(lines), 'number')} on "
              f"{lines[0].machine}. Lower is better.",
        data=_points(lines))


def _draw_lines(axes: Axes, drawn: Sequence[BenchmarkLine], here: Sequence[str],
                looks: Mapping[int, Look]) -> tuple[float, float]:
    """Draw each line over its first number; return the ends of the axis."""
    values: list[float] = [1.0]
    for line in drawn:
        first = line.known[0].value
        assert first is not None
        points = [(here.index(p.commit), p.value / first) for p in line.known
                  if p.value is not None]
        values += [value for _, value in points]
        look = looks.get(id(line))
        style: dict[str, Any] = {"color": MUTED, "linewidth": 1.0} if look is None else {
            "color": look.color, "linestyle": look.dashes, "marker": look.marker, "zorder": 3}
        axes.plot(*zip(*points, strict=True), markersize=4, markeredgewidth=0, **style)
    room = 0.08 * ((max(values) - min(values)) or 1.0)
    return min(values) - room, max(values) + room


def _write_names(axes: Axes, named: Sequence[tuple[Look, Sequence[BenchmarkLine]]],
                 extent: float) -> None:
    """Name the lines at their ends with their marks, apart from one another."""
    below, right = math.inf, axes.get_yaxis_transform()
    for look, group in sorted(named, key=lambda pair: -pair[1][0].ratio):
        below = min(group[0].ratio, below - 0.075 * extent)
        canvas.draw_marks(axes, [1.03], [below], look, size=4, transform=right, clip_on=False)
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        axes.annotate(
            canvas.plain(_name(group[0]), 22 - len(more)) + more, (1.03, below), xycoords=right,
            xytext=(6, 0), textcoords="offset points", va="center", color=INK, fontsize=8,
            annotation_clip=False)


def _caption(lines: Sequence[BenchmarkLine], drawn: Sequence[BenchmarkLine],
             changed: Sequence[Sequence[BenchmarkLine]]) -> str:
    total, numbers = sum(map(len, changed)), units.plural(len(drawn), "number")
    text = f"None of {numbers} changed."
    if changed:
        ratios = "; ".join(f"{_names(group)} {units.times(group[0].ratio)}" for group in changed)
        text = f"{total} of {numbers} changed; latest over first: {ratios}."
        if len(changed) > _LABELLED or total < len(drawn):
            text += " Grey: the others."
    if any(point.value is None for line in lines for point in line.points):
        text += " Crosses: a benchmark failed there."
    if failing := [line for line in lines if line.fails]:
        text += f" Failed at the latest commit: {_names(failing)}."
    if hidden := [line for line in lines if line not in drawn]:
        text += f" Not drawn, with one number or a first of 0: {_names(hidden)}."
    return text


def _name(line: BenchmarkLine) -> str:
    return line.parameters or "the benchmark"


def _names(lines: Sequence[BenchmarkLine]) -> str:
    return units.listing([_name(line) for line in lines])


def _table(found: History) -> Table:
    """Return the first and the latest number of each line, the changed ones first."""
    ordered = sorted(found.lines, key=lambda line: (
        not (line.changed or line.fails), line.machine, line.benchmark, line.parameters))
    outdated = (f" Left out: {units.plural(found.outdated, 'number')} of other versions of their "
                "benchmarks." if found.outdated else "")
    return Table(
        "history", "Numbers over commits",
        "From asv's result files. First and latest: at the earliest and the latest commit by "
        "date; “failed”: the benchmark gave no number there. Ratio: latest over first number; "
        f"lower is better.{outdated}",
        (("Benchmark", ""), ("Parameters", ""), ("Machine", ""), ("Commits", ""), ("First", ""),
         ("Latest", ""), ("Ratio", "")),
        tuple((mono(_short(line.benchmark), line.unit, benchmark=line.benchmark, unit=line.unit),
               words(line.parameters or units.NONE, parameters=line.parameters),
               words(line.machine, machine=line.machine),
               number(str(len(line.points)), commits=len(line.points)),
               _value("first", line.points[0].value), _value("latest", line.points[-1].value),
               known("ratio", line.ratio, units.digits)) for line in ordered))


def _value(column: str, value: float | None) -> Value:
    return known(column, value, lambda value: units.trim(units.digits(value, 6)), absent="failed",
                 kind="number missed")


def _points(lines: Sequence[BenchmarkLine]) -> Table:
    return Table(
        "history-points", f"{_short(lines[0].benchmark)} at each commit",
        "Numbers as asv stored them.",
        (("Benchmark", ""), ("Parameters", ""), ("Commit", ""), ("Value", lines[0].unit)),
        tuple((mono(_short(line.benchmark), benchmark=line.benchmark),
               words(line.parameters or units.NONE, machine=line.machine,
                     parameters=line.parameters),
               mono(point.commit[:7], commit=point.commit, date=point.date),
               _value("value", point.value)) for line in lines for point in line.points))
