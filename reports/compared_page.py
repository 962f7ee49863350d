"""Two studies side by side on one page: every measure of A and of B with the ratio B to A.

Figures of a comparison: the ratio B to A of each optimizer, by one measure at one N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench_apts.core import units
from bench_apts.core.units import escape_markdown, markdown_row
from bench_apts.reports import compared_tables, report_formats, report_page
from bench_apts.reports.canvas import Figure, finish, heading, panel, plain, scale, swatch, theme
from bench_apts.reports.canvas import png as pixels
from bench_apts.reports.compared_studies import compare_studies
from bench_apts.reports.figure_style import INK, looks
from bench_apts.reports.section_parts import Block, Listing, Part, Pictures
from bench_apts.reports.table import csv_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from bench_apts.reports.compared_studies import ComparedRow, StudyComparison
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.gather import Gathered

def ratio_figure(rows: Sequence[ComparedRow], measure: str, looks: Mapping[str, Look],
           slug: str) -> Figure | None:
    """Draws B over A for each optimizer, with the interval; None where no ratio is known.

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
    drawing, axes = panel(4.6, 0.3 * len(drawn) + 0.78, top=0.32,
                          left=0.14 + 0.07 * max(len(label) for label in labels), right=0.9)
    limits = _ratio_limits(drawn)
    for at, row in enumerate(drawn):
        style = looks[row.match.second.label]
        _interval(axes, row, at, style, limits)
        axes.plot([row.measure.effect], [at], marker=style.marker, markersize=7,
                  color=style.color, markeredgewidth=0)
        axes.annotate(compared_tables.row_entries(row)[3], (1, at),
                      xycoords=("axes fraction", "data"), xytext=(8, 0),
                      textcoords="offset points", va="center", color=INK, annotation_clip=False)
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    scale(axes, "x", units.digits, log=True, limits=limits, ticks=5)
    axes.set_yticks(range(len(drawn)), labels)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.grid(False, axis="y")
    title = drawn[0].measure.name
    axes.set_xlabel("B over A; above 1 B needs more")
    heading(axes, title)
    place = drawn[0].match.first
    where = f"{place.suite.name}, N = {place.ranks}"
    return finish(
        drawing, slug, f"{where}: {title}, B over A", _ratio_caption(mine, drawn), {},
        basis=f"Trials: {'; '.join(dict.fromkeys(row.measure.basis for row in drawn))}.",
        data=compared_tables.ratios_table(mine, f"{title}, {where}"))


def _ratio_caption(rows: Sequence[ComparedRow], drawn: Sequence[ComparedRow]) -> str:
    worst = max(drawn, key=lambda row: row.measure.effect)
    left_out = [row.match.second.label for row in rows if row not in drawn]
    parts = [f"Largest ratio: {worst.match.second.label}, {compared_tables.row_entries(worst)[3]} "
             f"({compared_tables.row_entries(worst)[6]})."]
    if any(row.measure.interval for row in drawn):
        parts.append("Bars: 95 % interval; an arrow: it goes on.")
    if left_out:
        parts.append(f"Without a ratio: {units.listing(left_out)}.")
    return " ".join(parts)


def _ratio_limits(rows: Sequence[ComparedRow]) -> tuple[float, float]:
    """Ends of the axis: around 1, all ratios, and all ends of intervals that a log scale has."""
    ends = [end for row in rows for end in (
        row.measure.effect, *([row.measure.interval.low, row.measure.interval.high]
                              if row.measure.interval else [])) if 0 < end < math.inf]
    return min(*ends, 0.9) / 1.1, max(*ends, 1 / 0.9) * 1.1


def _interval(
    axes: Axes, row: ComparedRow, at: int, look: Look, limits: tuple[float, float]
) -> None:
    """Draws a row's interval, with an arrow where it goes on beyond the axis."""
    interval, (low, high) = row.measure.interval, limits
    if not interval:
        return
    axes.plot([max(interval.low, low), min(interval.high, high)], [at, at],
              color=look.color, linewidth=2, alpha=0.6, solid_capstyle="butt")
    for beyond, end, marker in ((interval.low < low, low, "<"), (interval.high > high, high, ">")):
        if beyond:
            axes.plot([end], [at], marker=marker, markersize=5, color=look.color,
                      markeredgewidth=0, clip_on=False)


_LINES = 60
"""Most lines of the Markdown summary."""

_DRAWN = ("expected cost", "time to target", "wire bytes per step")
"""What the measures whose ratios have a figure begin with, see ``cells.measures``."""


@dataclass(frozen=True)
class ComparisonOutput:
    """The page, its files by path relative to its folder, and its twins."""

    html: str
    files: dict[str, bytes]
    document: bytes
    markdown: str


def compose_comparison(first: Gathered, second: Gathered, names: tuple[str, str], *,
            png: bool = False) -> ComparisonOutput:
    """Compares A with B and writes everything about it.

    Args:
        first: A.
        second: B.
        names: How to call them.
        png: Whether the figures are wanted as PNG, too.

    Raises:
        UserError: They ran on other devices, or share nothing that has trials.
    """
    found = compare_studies(first, second, names, 1.0)
    verdict = compared_tables.verdict_line(found)
    labels = list(dict.fromkeys(row.match.second.label for row in found.rows))
    look = looks(labels)
    with theme():
        parts = _parts(found, look)
        symbols = {label: swatch(look[label], f"mark{index}", label)
                   for index, label in enumerate(labels)}
    origin = compared_tables.provenance_table(first, second)
    rows = {"compared": compared_tables.plain_rows(found), origin.name: origin.records()}
    files = {f"tables/{title}.csv": csv_bytes(entries) for title, entries in rows.items()}
    with theme():
        for figure in (f for part in parts for block in part.blocks
                       if isinstance(block, Pictures) for f in block.figures):
            files |= {f"figures/{title}": content for title, content in figure.files.items()}
            if png:
                files[f"figures/{figure.slug}.png"] = pixels(figure)
    html = report_page.render_page(
        symbols=symbols, template="compared.html.j2", names=names, verdict=verdict, parts=parts,
        notes=found.notes, labels=labels, origin=origin,
        marks={label: f"mark{index}" for index, label in enumerate(labels)},
        sides=[_side(letter, title, study) for letter, title, study in zip(
            "AB", names, (first, second), strict=True)])
    return ComparisonOutput(
        html,
        files,
        report_formats.comparison_document(found, rows, parts, verdict),
        _markdown(found, verdict),
    )


def _side(letter: str, title: str, study: Gathered) -> dict[str, Any]:
    commit = study.file.environment.get("commit")
    return {"letter": letter, "name": title, "trials": len(study.trials),
            "created": study.file.created.replace("T", " ").replace("+00:00", " UTC"),
            "commit": str(commit)[:12] if commit else ""}


def _parts(found: StudyComparison, look: Mapping[str, Look]) -> list[Part]:
    """One part for each suite and N."""
    places = dict.fromkeys((row.match.first.suite.name, row.match.first.ranks)
                           for row in found.rows)
    parts = []
    for index, (suite, ranks) in enumerate(places):
        rows = [row for row in found.rows
                if (row.match.first.suite.name, row.match.first.ranks) == (suite, ranks)]
        table = compared_tables.measures_table(rows, f"{suite} at N = {ranks}")
        figures = [figure for slot, measure in enumerate(_DRAWN)
                   if (figure := ratio_figure(rows, measure, look, f"compared-{index}-{slot}"))]
        blocks: list[Block] = [Pictures(tuple(figures), wide=True)] if figures else []
        parts.append(Part(f"p{index}", f"{suite}, N = {ranks}", _finding(rows),
                          (*blocks, Listing(table, folded=False))))
    return parts


def _finding(rows: Sequence[ComparedRow]) -> str:
    """Counts the verdicts."""
    counts = {verdict: sum(row.verdict == verdict for row in rows)
              for verdict in ("worse", "better", "equal")}
    rest = len(rows) - sum(counts.values())
    return (f"Of {units.plural(len(rows), 'comparison')} B is worse in {counts['worse']} and "
            f"better in {counts['better']}; {counts['equal']} are equal, and {rest} show no "
            "difference or cannot be judged.")


def _markdown(found: StudyComparison, verdict: str) -> str:
    """The verdict, what differs, and the notes, in a comment's length."""
    told = [*found.worse, *found.better]
    lines = [f"**{escape_markdown(verdict[:1].upper() + verdict[1:])}**", "",
             f"A: {escape_markdown(found.names[0])}, B: {escape_markdown(found.names[1])}; "
             f"{units.plural(len(found.rows), 'comparison')}, {len(found.worse)} worse and "
             f"{len(found.better)} better in B.", ""]
    if told:
        heads = ("optimizer", *compared_tables.HEAD)
        lines += [markdown_row(heads), markdown_row(["---"] * len(heads))]
        lines += [
            markdown_row(
                [
                    escape_markdown(row.match.where),
                    *map(escape_markdown, compared_tables.row_entries(row)),
                ]
            )
            for row in told
        ] + [""]
    lines += [f"* {escape_markdown(note)}" for note in found.notes]
    if len(lines) > _LINES:
        lines = [*lines[:_LINES - 2], "", "… The rest stands in compared.html."]
    return "\n".join(lines) + "\n"
