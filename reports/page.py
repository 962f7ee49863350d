"""From gathered records to the page: contexts, parts, files, and what the template is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.core.currency import headline

from . import caveats, record_tables, sections
from .certainty import qualified
from .context import Context
from .curves.courses import frame
from .drawing.canvas import png as pixels
from .drawing.canvas import swatch, theme
from .drawing.style import looks
from .findings import unstable
from .formats import render
from .parts import Boxes, Listing, Pictures
from .provenance import cards
from .table import csv, frame_csv
from .tuning.pool import View, pools
from .tuning.replay import Replays

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench_apts.core.spec import Suite

    from .caveats import Caveat
    from .drawing.canvas import Figure
    from .gather import Gathered
    from .history.commits import History
    from .parts import Part
    from .provenance import Card
    from .table import Plain, Table


@dataclass(frozen=True)
class Chapter:
    """One suite.

    Attributes:
        suite: The training problem.
        anchor: Prefix of the ids of its parts.
        decision: What to take, which stands above all chapters.
        parts: All others.
    """

    suite: Suite
    anchor: str
    decision: Part
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Output:
    """Everything that a report consists of.

    Attributes:
        html: The page.
        files: Content of tables and figures by path relative to the page's folder.
        gathered: The study.
        chapters: What the page shows of each suite.
        overall: What it shows of no suite in particular.
        tables: Rows of plain numbers by the name of their CSV file.
        caveats: What a reader must know.
        cards: Where the numbers come from.
        warnings: What has to be read before any number.
    """

    html: str
    files: dict[str, bytes]
    gathered: Gathered
    chapters: tuple[Chapter, ...]
    overall: tuple[Part, ...]
    tables: dict[str, list[dict[str, Plain]]]
    caveats: list[Caveat]
    cards: list[Card]
    warnings: list[str]


def compose(gathered: Gathered, found: History | None = None, *, png: bool = False) -> Output:
    """Draws all figures, fills all tables and renders the page.

    Args:
        gathered: The study.
        found: Numbers over commits to show beside it, if any.
        png: Whether the figures are wanted as PNG, too, which takes as long as all the rest.
    """
    labels = [entry.label for entry in gathered.file.study.entries]
    look = looks(labels)
    view = View(headline(gathered.device), 1.0, gathered.device)
    with theme(), Replays(pools(gathered.groups, view), view) as replays:
        contexts = _contexts(gathered, replays)
        ranked = sections.ranking.part(contexts)
        chapters = _chapters(contexts)
        past = sections.history.part(found) if found else None
        overall = tuple(part for part in (ranked, past) if part)
        symbols = {label: swatch(look[label], f"mark{index}", label)
                   for index, label in enumerate(labels)}
    parts = [*(part for chapter in chapters for part in (chapter.decision, *chapter.parts)),
             *overall]
    sources = [table for table in (record_tables.trials(gathered.trials),
                                   record_tables.figures([*_figures(parts)])) if table]
    told, origin = caveats.caveats(gathered), cards(gathered)
    warnings = [line for group in gathered.groups if (line := unstable(group, view.currency))]
    html = render.page(
        gathered=gathered, study=gathered.file.study, chapters=chapters, labels=labels,
        marks={label: f"mark{index}" for index, label in enumerate(labels)},
        symbols=symbols, caveats=told, cards=origin, warnings=warnings,
        sources=sources, overall=overall,
        statuses=record_tables.statuses(gathered.trials), device=gathered.device)
    tables = _rows([*_tables(parts), *sources], parts)
    files = {f"tables/{name}.csv": csv(rows) for name, rows in tables.items()}
    for figure in _figures(parts):
        files |= {f"figures/{name}": content for name, content in figure.files.items()}
    if png:
        with theme():
            files |= {f"figures/{f.slug}.png": pixels(f) for f in _figures(parts)}
    files["tables/curves.csv"] = frame_csv(contexts[0].curves)
    return Output(html, files, gathered, chapters, overall, tables, told, origin, warnings)


def _chapters(contexts: Sequence[Context]) -> tuple[Chapter, ...]:
    # The bills of tuning come last, as others replay its policies in the meantime.
    order = sorted(sections.CHAPTER, key=lambda section: section is sections.tuning)
    decisions = [sections.decision.part(context) for context in contexts]
    built = {section: [section.part(context) for context in contexts] for section in order}
    return tuple(
        Chapter(context.suite, f"s{index}", decisions[index], qualified(decisions[index], [
            part for section in sections.CHAPTER if (part := built[section][index])]))
        for index, context in enumerate(contexts))


def _contexts(gathered: Gathered, replays: Replays) -> list[Context]:
    study = gathered.file.study
    look = looks([entry.label for entry in study.entries])
    crowded = {n: caveats.crowded(gathered, n) for n in study.ranks}
    data = frame(gathered.groups)
    found = []
    for index, suite in enumerate(study.suites):
        groups = tuple(group for group in gathered.groups if group.suite == suite)
        twins = [other for other in study.suites if other.name == suite.name]
        prefix = suite.name if len(twins) == 1 else f"{suite.name}-s{index}"
        found.append(Context(gathered, suite, prefix, groups, look, crowded, data, replays))
    return found


def _figures(parts: Iterable[Part]) -> Iterator[Figure]:
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Pictures):
                yield from block.figures


def _tables(parts: Iterable[Part]) -> list[Table]:
    """All tables once, those behind figures too, which may share one."""
    found: list[Table] = []
    for part in parts:
        for block in part.blocks:
            mine = ([block.table] if isinstance(block, Listing) else
                    [figure.data for figure in block.figures if figure.data]
                    if isinstance(block, Pictures) else [])
            for table in mine:
                if all(table is not other for other in found):
                    found.append(table)
    return found


def _rows(tables: Iterable[Table], parts: Iterable[Part]) -> dict[str, list[dict[str, Plain]]]:
    """The rows of all CSV files by name; tables of several suites and N share one."""
    rows: dict[str, list[dict[str, Plain]]] = {}
    for table in tables:
        rows.setdefault(table.name, []).extend(table.records())
    for part in parts:
        for block in part.blocks:
            if isinstance(block, Boxes):
                rows.setdefault(block.name, []).extend(
                    dict(answer.numbers) for box in block.boxes for answer in box.answers)
    return rows
