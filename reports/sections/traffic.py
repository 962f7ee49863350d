"""Section "traffic": bytes by collective and phase, and against what the methods must send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import record_tables

from ..parts import Listing, Part, Pictures
from ..traffic.figures import agreement, phases, steps
from ..traffic.numbers import sent, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context
    from ..parts import Block
    from ..traffic.numbers import Sent


def part(context: Context) -> Part | None:
    """Returns the section; None where no collective was recorded."""
    detail = record_tables.communication(context.groups)
    if detail is None:
        return None
    rows = sent(context.groups)
    blocks: list[Block] = []
    for group in context.groups:
        mine = [row for row in rows if row.ranks == group.ranks]
        drawn = tuple(figure for figure in (steps(context, group, mine), phases(context, group))
                      if figure)
        if drawn:
            blocks.append(Pictures(drawn, f"N = {group.ranks}", wide=True))
    if rows:
        blocks.append(Listing(table(context, rows)))
    blocks.append(Listing(detail))
    return Part("traffic", "Communication", _finding(rows), tuple(blocks))


def _finding(rows: Sequence[Sent]) -> str:
    if not rows:
        return "No training sent a byte to another rank."
    last = max(row.ranks for row in rows)
    most, least = (choose((row.step_bytes, row.label) for row in rows if row.ranks == last)
                   for choose in (max, min))
    sends = (f"from {units.size(least[0])} ({least[1]}) to {units.size(most[0])} ({most[1]})"
             if units.size(least[0]) != units.size(most[0]) else units.size(most[0]))
    return (f"A step at N = {last} sends {sends} per rank; "
            f"over all N > 1, {_lower(agreement(rows))}")


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
