"""Two studies side by side on one page: every measure of A and of B with the ratio B to A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench_apts.core import units
from bench_apts.core.markdown import escaped, line

from ..drawing.canvas import png as pixels
from ..drawing.canvas import swatch, theme
from ..drawing.style import looks
from ..formats import document, render
from ..parts import Block, Listing, Part, Pictures
from ..table import csv
from . import tables, text
from .compared import studies
from .figures import ratios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..drawing.style import Look
    from ..gather import Gathered
    from .compared import Compared, Row

_LINES = 60
"""Most lines of the Markdown summary."""

_DRAWN = ("expected cost", "time to target", "wire bytes per step")
"""What the measures whose ratios have a figure begin with, see ``cells.measures``."""


@dataclass(frozen=True)
class Output:
    """The page, its files by path relative to its folder, and its twins."""

    html: str
    files: dict[str, bytes]
    document: bytes
    markdown: str


def compose(first: Gathered, second: Gathered, names: tuple[str, str], *,
            png: bool = False) -> Output:
    """Compares A with B and writes everything about it.

    Args:
        first: A.
        second: B.
        names: How to call them.
        png: Whether the figures are wanted as PNG, too.

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
    origin = tables.provenance(first, second)
    rows = {"compared": text.numbers(found), origin.name: origin.records()}
    files = {f"tables/{title}.csv": csv(entries) for title, entries in rows.items()}
    with theme():
        for figure in (f for part in parts for block in part.blocks
                       if isinstance(block, Pictures) for f in block.figures):
            files |= {f"figures/{title}": content for title, content in figure.files.items()}
            if png:
                files[f"figures/{figure.slug}.png"] = pixels(figure)
    html = render.page(
        symbols=symbols, template="compared.html.j2", names=names, verdict=verdict, parts=parts,
        notes=found.notes, labels=labels, origin=origin,
        marks={label: f"mark{index}" for index, label in enumerate(labels)},
        sides=[_side(letter, title, study) for letter, title, study in zip(
            "AB", names, (first, second), strict=True)])
    return Output(html, files, document.comparison(found, rows, parts, verdict),
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
        table = tables.measures(rows, f"{suite} at N = {ranks}")
        figures = [figure for slot, measure in enumerate(_DRAWN)
                   if (figure := ratios(rows, measure, look, f"compared-{index}-{slot}"))]
        blocks: list[Block] = [Pictures(tuple(figures), wide=True)] if figures else []
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
