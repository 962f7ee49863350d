"""Two studies side by side on one page: every measure of A and of B with the ratio B to A."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import units
from ..drawing.canvas import Figure, finish, heading, panel, plain, png, scale, swatch, theme
from ..drawing.style import INK, looks
from ..formats import document, render
from ..formats.markdown import escaped, line
from ..parts import Block, Listing, Part, Pictures
from ..table import Table, Value, csv, name, number, words
from . import text
from .compared import studies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..drawing.style import Look
    from ..gather import Gathered
    from .compared import Compared, Row

_LINES = 60
"""Most lines of the Markdown summary."""

_DRAWN = ("expected cost", "time to target", "wire bytes per step")
"""Measures whose ratios have a figure, as ``compared_cells`` names them."""

_KINDS = {"worse": "number missed", "better": "number best"}


@dataclass(frozen=True)
class Output:
    """The page, its files by path relative to its folder, and its twins."""

    html: str
    files: dict[str, bytes]
    document: bytes
    markdown: str


def compose(first: Gathered, second: Gathered, names: tuple[str, str]) -> Output:
    """Compares A with B and writes everything about it.

    Raises:
        UserError: They ran on other devices, or share nothing that has trials.
    """
    found = studies(first, second, names, 1.0)
    verdict = text.verdict(found)
    labels = list(dict.fromkeys(row.match.second.label for row in found.rows))
    look = looks(labels)
    with theme():
        parts = _parts(found, look)
        symbols = {label: swatch(look[label], f"mark{index}", label)
                   for index, label in enumerate(labels)}
    tables = {"compared": text.numbers(found)}
    files = {f"tables/{title}.csv": csv(rows) for title, rows in tables.items()}
    with theme():
        for figure in (f for part in parts for block in part.blocks
                       if isinstance(block, Pictures) for f in block.figures):
            files |= {f"figures/{title}": content for title, content in figure.files.items()}
            files[f"figures/{figure.slug}.png"] = png(figure)
    html = render.page(
        symbols=symbols, template="compared.html.j2", names=names, verdict=verdict, parts=parts,
        notes=found.notes, labels=labels,
        marks={label: f"mark{index}" for index, label in enumerate(labels)},
        sides=[_side(letter, title, study) for letter, title, study in zip(
            "AB", names, (first, second), strict=True)])
    return Output(html, files, document.comparison(found, tables, parts, verdict),
                  _markdown(found, verdict))


def _side(letter: str, title: str, study: Gathered) -> dict[str, Any]:
    commit = study.file.environment.get("commit")
    return {"letter": letter, "name": title, "trials": len(study.trials),
            "created": study.file.created.replace("T", " ").replace("+00:00", " UTC"),
            "commit": str(commit)[:12] if commit else ""}


def _parts(found: Compared, look: Mapping[str, Look]) -> list[Part]:
    """One part for each suite and N."""
    places = dict.fromkeys((row.match.first.suite.name, row.match.first.ranks)
                           for row in found.rows)
    parts = []
    for index, (suite, ranks) in enumerate(places):
        rows = [row for row in found.rows
                if (row.match.first.suite.name, row.match.first.ranks) == (suite, ranks)]
        table = _table(rows, f"{suite} at N = {ranks}")
        figures = [figure for slot, measure in enumerate(_DRAWN)
                   if (figure := _ratios(rows, measure, look, f"compared-{index}-{slot}"))]
        blocks: list[Block] = [Pictures(tuple(figures))] if figures else []
        parts.append(Part(f"p{index}", f"{suite}, N = {ranks}", _finding(rows),
                          (*blocks, Listing(table, folded=False))))
    return parts


def _finding(rows: Sequence[Row]) -> str:
    """Counts the verdicts."""
    counts = {verdict: sum(row.verdict == verdict for row in rows)
              for verdict in ("worse", "better", "equal")}
    rest = len(rows) - sum(counts.values())
    return (f"Of {units.plural(len(rows), 'comparison')} B is worse in {counts['worse']} and "
            f"better in {counts['better']}; {counts['equal']} are equal, and {rest} show no "
            "difference or cannot be judged.")


def _table(rows: Sequence[Row], where: str) -> Table:
    lines: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for row, numbers in zip(rows, _numbers(rows), strict=True):
        texts = text.entries(row)
        if id(row.match) != previous:
            breaks.add(len(lines))
            previous = id(row.match)
        lines.append((
            name(row.match.second.label, suite=row.match.first.suite.name,
                 ranks=row.match.first.ranks),
            words(texts[0], measure=texts[0]), number(texts[1], a=numbers["a"]),
            number(texts[2], b=numbers["b"]),
            Value(texts[3], texts[4] if texts[4] != units.NONE else "",
                  {"effect": numbers["effect"], "low": numbers["low"], "high": numbers["high"]},
                  _KINDS.get(row.verdict, "number")),
            words(texts[5], trials=texts[5]),
            words(texts[6], f"p = {units.digits(row.adjusted, 2)}" if row.adjusted < 1 else "",
                  verdict=row.verdict)))
    return Table(
        "compared", f"A and B, {where}",
        "B to A: ratio of costs and counts, or difference of shares and accuracies, with its 95 % "
        "bootstrap interval. Worse or better: beyond noise, corrected by Holm for all "
        "comparisons of the page.",
        (("Optimizer", ""), ("Measure", ""), ("A", ""), ("B", ""), ("B to A", "95 % interval"),
         ("Trials", ""), ("Verdict", "of B")), tuple(lines), frozenset(breaks))


def _numbers(rows: Sequence[Row]) -> list[dict[str, float | None]]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [{"a": finite(row.measure.values[0]), "b": finite(row.measure.values[1]),
             "effect": finite(row.measure.effect),
             "low": finite(row.measure.interval.low) if row.measure.interval else None,
             "high": finite(row.measure.interval.high) if row.measure.interval else None}
            for row in rows]


def _ratios(rows: Sequence[Row], measure: str, look: Mapping[str, Look],
            slug: str) -> Figure | None:
    """Draws B over A for each optimizer, with the interval; the table below has the numbers."""
    mine = [row for row in rows if row.measure.name.startswith(measure)]
    drawn = [row for row in mine if 0 < row.measure.effect < math.inf]
    if not drawn:
        return None
    labels = [plain(row.match.second.label, 18) for row in drawn]
    drawing, axes = panel(4.6, 0.3 * len(drawn) + 0.78, top=0.32,
                          left=0.14 + 0.07 * max(len(label) for label in labels), right=0.9)
    ends = [end for row in drawn for end in (
        row.measure.effect, *([row.measure.interval.low, row.measure.interval.high]
                              if row.measure.interval else [])) if 0 < end < math.inf]
    low, high = min(*ends, 0.9) / 1.1, max(*ends, 1 / 0.9) * 1.1
    for at, row in enumerate(drawn):
        style, interval = look[row.match.second.label], row.measure.interval
        if interval:
            axes.plot([max(interval.low, low), min(interval.high, high)], [at, at],
                      color=style.color, linewidth=2, alpha=0.6, solid_capstyle="butt")
        axes.plot([row.measure.effect], [at], marker=style.marker, markersize=7,
                  color=style.color, markeredgewidth=0)
        axes.annotate(text.entries(row)[3], (1, at),
                      xycoords=("axes fraction", "data"), xytext=(8, 0),
                      textcoords="offset points", va="center", color=INK, annotation_clip=False)
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    scale(axes, "x", units.digits, log=True, limits=(low, high), ticks=5)
    axes.set_yticks(range(len(drawn)), labels)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.grid(False, axis="y")
    title = drawn[0].measure.name
    axes.set_xlabel("B over A; above 1 B needs more")
    heading(axes, title)
    worst = max(drawn, key=lambda row: row.measure.effect)
    left_out = [row.match.second.label for row in mine if row not in drawn]
    return finish(
        drawing, slug, f"{title}: B over A at N = {drawn[0].match.first.ranks}",
        f"Largest ratio: {worst.match.second.label}, {text.entries(worst)[3]} "
        f"({text.entries(worst)[6]})."
        + (f" Without a ratio: {units.listing(left_out)}." if left_out else ""), {},
        basis=f"Trials: {'; '.join(dict.fromkeys(row.measure.basis for row in drawn))}.")


def _markdown(found: Compared, verdict: str) -> str:
    """The verdict, what differs, and the notes, in a comment's length."""
    told = [*found.worse, *found.better]
    lines = [f"**{escaped(verdict[:1].upper() + verdict[1:])}**", "",
             f"A: {escaped(found.names[0])}, B: {escaped(found.names[1])}; "
             f"{units.plural(len(found.rows), 'comparison')}, {len(found.worse)} worse and "
             f"{len(found.better)} better in B.", ""]
    if told:
        heads = ("optimizer", *text.HEAD)
        lines += [line(heads), line(["---"] * len(heads))]
        lines += [line([escaped(row.match.where), *map(escaped, text.entries(row))])
                  for row in told] + [""]
    lines += [f"* {escaped(note)}" for note in found.notes]
    if len(lines) > _LINES:
        lines = [*lines[:_LINES - 2], "", "… The rest stands in compared.html."]
    return "\n".join(lines) + "\n"
