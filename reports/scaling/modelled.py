"""Modelled times in the report: their table, and the world sizes that are modelled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats.projection import Scaling

from ..table import Table, Value, name, number, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .projected import Row

RANKS = (8, 64, 512, 4096)
"""World sizes that a report models; `bench-apts project` takes others."""


def table(rows: Sequence[Row]) -> Table | None:
    """Modelled step and time to target of each optimizer; None if nothing could be modelled."""
    ordered = sorted((row for row in rows if row.middle is not None),
                     key=lambda row: row.scaling is not Scaling.strong)
    lines: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for row in ordered:
        middle = row.middle
        assert middle is not None
        if (row.scaling, row.fabric) != previous:
            previous = row.scaling, row.fabric
            breaks.add(len(lines))
        reached = math.isfinite(middle.to_target_s)
        lines.append((
            name(row.cell.label, suite=row.cell.suite.name),
            words(row.scaling), words(row.fabric),
            number(f"{row.ranks:,}"),
            number(units.seconds(middle.compute_s)),
            number(units.seconds(middle.communication_s)),
            number(units.seconds(middle.step_s)),
            Value(units.seconds(middle.to_target_s) if reached else "no hit",
                  numbers=row.numbers(), kind="number" if reached else "number missed")))
    if not lines:
        return None
    return Table(
        "modelled", "Modelled time on other networks",
        "Modelled, not measured: computing as recorded, plus hops times latency and bytes over "
        "bandwidth of each collective; nothing overlaps, no link is shared, and samples to the "
        "target stay those measured at the recorded N. Strong: the global minibatch stays; weak: "
        "each rank's share of it. `bench-apts project` takes other networks and N.",
        (("Optimizer", ""), ("Scaling", ""), ("Network", ""), ("N", "ranks, modelled"),
         ("Computing", "of a step"), ("Sending", "in a step"), ("Step", "modelled"),
         ("To target", "modelled")),
        tuple(lines), frozenset(breaks))
