"""The page of ``bench-apts meter``: its table, and that of each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.meters.traffic_table import TrafficTable
from bench_apts.reports import report_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.meters.metered_files import MeteredRank

_MOST_RANKS = 16
"""Ranks whose tables are on the page; the lines have all."""


class TextTable(NamedTuple):
    """A table as texts, its first three columns names, and what is to be said of it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def metered_page(ranks: Sequence[MeteredRank], table: TrafficTable) -> str:
    """Return the page of a metered command.

    Args:
        ranks: What its processes wrote.
        table: That of all of them together.
    """
    tables = [TextTable("A rank, on average", *table.texts(), table.caveats())]
    for rank in ranks[:_MOST_RANKS]:
        own = TrafficTable(rank.last.rows, rank.last.steps, rank.last.step_seconds)
        title = f"Rank {rank.header.rank} on {rank.header.host}"
        tables.append(TextTable(title, *own.texts(), own.caveats()))
    if len(ranks) > _MOST_RANKS:
        tables.append(TextTable(f"{len(ranks) - _MOST_RANKS} more processes", (), (),
                                ("their lines are in the folder",)))
    return render_tables(
        f"Collectives of {units.plural(table.ranks, 'rank')} in "
        f"{units.plural(table.steps, 'step')}", " ".join(ranks[0].header.command), tables)


def render_tables(title: str, about: str, tables: Sequence[TextTable]) -> str:
    """Return a page of tables.

    Args:
        title: Its heading.
        about: A line on what was measured.
        tables: In their order.
    """
    return report_page.render_page(
        marks={}, look={}, template="metered.html.j2", title=title, about=about, tables=tables)
