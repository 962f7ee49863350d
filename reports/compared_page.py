"""Two studies side by side on one page: every measure of A and of B, with the ratio B to A."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.core import units
from bench_apts.reports import compared_tables, report_formats, report_page
from bench_apts.reports.canvas import Figure, heading, panel, plain, scale
from bench_apts.reports.compared_studies import compare_studies
from bench_apts.reports.figure_style import INK, looks
from bench_apts.reports.section_parts import Block, Listing, Part, Pictures
from bench_apts.reports.table import csv_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.compared_studies import ComparedRow, StudyComparison
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.gather import Gathered

_DRAWN = ("expected cost", "time to target", "wire bytes per step")
"""What the measures whose ratios have a figure begin with, see ``compared_measures``."""


@dataclass(frozen=True)
class ComparisonOutput:
    """What writes the page, and what writes all other files, by path relative to its folder."""

    page: Callable[[], str]
    files: dict[str, Callable[[], bytes]]


def compose_comparison(first: Gathered, second: Gathered,
                       names: tuple[str, str]) -> ComparisonOutput:
    """Compare A with B; the page and files are written on demand.

    Args:
        first: A.
        second: B.
        names: How to call them.

    Raises:
        UserError: They ran on other devices, or share nothing that has trials.
    """
    found = compare_studies(first, second, names, 1.0)
    verdict = compared_tables.verdict_line(found)
    labels = list(dict.fromkeys(row.match.second.label for row in found.rows))
    look = looks(labels)
    marks = {label: f"mark{index}" for index, label in enumerate(labels)}
    tables = [compared_tables.measures_table(found.rows),
              compared_tables.provenance_table(first, second)]
    rows = {table.name: table.records() for table in tables}
    files = {f"tables/{name}.csv": partial(csv_bytes, entries) for name, entries in rows.items()}
    parts = _parts(found, look)
    page = partial(
        report_page.render_page, look=look, template="compared.html.j2", names=names,
        verdict=verdict, parts=parts, notes=found.notes, labels=labels, origin=tables[1],
        marks=marks,
        sides=[_side(letter, name, study) for letter, name, study in zip(
            "AB", names, (first, second), strict=True)])
    figures = (figure for part in parts for figure in part.figures)
    return ComparisonOutput(page, files | report_page.figure_files(figures) | {
        "compared.json": partial(report_formats.comparison_document, found, rows, parts, verdict),
        "compared.md": lambda: compared_tables.comparison_summary(found).encode()})


def _side(letter: str, name: str, study: Gathered) -> dict[str, Any]:
    commit = study.file.environment.get("commit")
    return {"letter": letter, "name": name, "trials": len(study.trials),
            "created": study.file.created.replace("T", " ").replace("+00:00", " UTC"),
            "commit": str(commit)[:12] if commit else ""}


def _parts(found: StudyComparison, look: Mapping[str, Look]) -> list[Part]:
    """Return one part for each suite and N."""
    places: dict[tuple[str, int], list[ComparedRow]] = {}
    for row in found.rows:
        places.setdefault((row.match.first.suite.name, row.match.first.ranks), []).append(row)
    parts = []
    for index, ((suite, ranks), rows) in enumerate(places.items()):
        figures = [figure for slot, measure in enumerate(_DRAWN)
                   if (figure := _ratio_figure(rows, measure, look, f"compared-{index}-{slot}"))]
        blocks: list[Block] = [Pictures(tuple(figures))] if figures else []
        table = compared_tables.measures_table(rows, f"{suite} at N = {ranks}")
        parts.append(Part(f"p{index}", f"{suite}, N = {ranks}", _finding(rows),
                          (*blocks, Listing(table, folded=False))))
    return parts


def _finding(rows: Sequence[ComparedRow]) -> str:
    """Count the verdicts."""
    worse, better, equal = (sum(row.verdict == verdict for row in rows)
                            for verdict in ("worse", "better", "equal"))
    return (f"Of {units.plural(len(rows), 'comparison')} B is worse in {worse} and better in "
            f"{better}; {equal} are equal, and {len(rows) - worse - better - equal} show no "
            "difference or cannot be judged.")


def _ratio_figure(rows: Sequence[ComparedRow], measure: str, looks: Mapping[str, Look],
                  slug: str) -> Figure | None:
    """Draw B over A for each optimizer, with the interval; None where no ratio is known.

    Args:
        rows: Those of one suite at one N.
        measure: What the names of the measures begin with.
        looks: Each optimizer's look, by B's label.
        slug: Name of the figure.
    """
    mine = [row for row in rows if row.measure.name.startswith(measure)]
    drawn = [row for row in mine if 0 < row.measure.effect < math.inf]
    if not drawn:
        return None
    labels = [plain(row.match.second.label, 18) for row in drawn]
    title = drawn[0].measure.name

    def draw() -> Drawing:
        drawing, axes = panel(4.6, 0.3 * len(drawn) + 0.78, top=0.32,
                              left=0.14 + 0.07 * max(len(label) for label in labels), right=0.9)
        limits = _limits(drawn)
        for at, row in enumerate(drawn):
            style = looks[row.match.second.label]
            _interval(axes, row, at, style, limits)
            axes.plot([row.measure.effect], [at], marker=style.marker, markersize=7,
                      color=style.color, markeredgewidth=0)
            axes.annotate(compared_tables.row_entries(row)[3], (1, at),
                          xycoords=("axes fraction", "data"), xytext=(8, 0),
                          textcoords="offset points", va="center", color=INK,
                          annotation_clip=False)
        axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
        scale(axes, "x", units.digits, log=True, limits=limits, ticks=5)
        axes.set_yticks(range(len(drawn)), labels)
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.set_xlabel("B over A; above 1 B needs more")
        heading(axes, title)
        return drawing

    place = drawn[0].match.first
    where = f"{place.suite.name}, N = {place.ranks}"
    return Figure(
        draw, slug, f"{where}: {title}, B over A", _caption(mine, drawn), {},
        basis=f"Trials: {'; '.join(dict.fromkeys(row.measure.basis for row in drawn))}.",
        data=compared_tables.ratios_table(mine, f"{title}, {where}"))


def _caption(rows: Sequence[ComparedRow], drawn: Sequence[ComparedRow]) -> str:
    worst = max(drawn, key=lambda row: row.measure.effect)
    left_out = [row.match.second.label for row in rows if row not in drawn]
    _, _, _, ratio, *_, verdict = compared_tables.row_entries(worst)
    parts = [f"Largest ratio: {worst.match.second.label}, {ratio} ({verdict})."]
    if any(row.measure.interval for row in drawn):
        parts.append("Bars: 95 % interval; an arrow: it goes on.")
    if left_out:
        parts.append(f"Without a ratio: {units.listing(left_out)}.")
    return " ".join(parts)


def _limits(rows: Sequence[ComparedRow]) -> tuple[float, float]:
    """Return ends of the axis around 1, all ratios, and all ends of intervals on a log scale."""
    ends = [end for row in rows for end in (row.measure.effect, *(row.measure.interval or ()))
            if 0 < end < math.inf]
    return min(*ends, 0.9) / 1.1, max(*ends, 1 / 0.9) * 1.1


def _interval(axes: Axes, row: ComparedRow, at: int, look: Look,
              limits: tuple[float, float]) -> None:
    """Draw a row's interval, with an arrow where it goes on beyond the axis."""
    interval, (low, high) = row.measure.interval, limits
    if not interval:
        return
    axes.plot([max(interval.low, low), min(interval.high, high)], [at, at],
              color=look.color, linewidth=2, alpha=0.6, solid_capstyle="butt")
    for beyond, end, marker in ((interval.low < low, low, "<"), (interval.high > high, high, ">")):
        if beyond:
            axes.plot([end], [at], marker=marker, markersize=5, color=look.color,
                      markeredgewidth=0, clip_on=False)
