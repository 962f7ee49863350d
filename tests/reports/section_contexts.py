"""What a report's sections are built from, for a results folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.reports import caveats
from bench_apts.reports import curve_data as curves
from bench_apts.reports.canvas import theme
from bench_apts.reports.figure_style import looks
from bench_apts.reports.gather import gather
from bench_apts.reports.section_parts import Context, Listing, Pictures

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.section_parts import Part
    from bench_apts.reports.table import Table


def contexts(folder: Path) -> list[Context]:
    """Returns the context of each suite of a study."""
    gathered = gather(folder)
    study = gathered.file.study
    given = looks([entry.label for entry in study.entries])
    crowded = {n: caveats.crowded(gathered, n) for n in study.ranks}
    data = curves.curve_frame(gathered.groups)
    return [Context(gathered, suite, f"{suite.name}-{at}",
                    tuple(group for group in gathered.groups if group.suite == suite), given,
                    crowded, data) for at, suite in enumerate(study.suites)]


def build(section: ModuleType, folder: Path) -> Part | None:
    """Builds the section of a study's first suite."""
    with theme():
        part: Part | None = section.part(contexts(folder)[0])
    return part


def figures(part: Part) -> dict[str, Figure]:
    """Returns a part's figures by the end of their names, without the prefix of the suite."""
    return {figure.slug.removeprefix("digits-0-"): figure for block in part.blocks
            if isinstance(block, Pictures) for figure in block.figures}


def listings(part: Part) -> dict[str, Table]:
    """Returns a part's tables by name."""
    return {block.table.name: block.table for block in part.blocks if isinstance(block, Listing)}


def columns(table: Table) -> dict[tuple[object, ...], dict[str, object]]:
    """Returns a table's plain numbers by optimizer and N."""
    return {(row["optimizer"], row["ranks"]): row for row in table.records()}
