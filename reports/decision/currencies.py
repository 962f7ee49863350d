"""Expected costs over those of the cheapest in each currency, and where the order changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currency import headline
from bench_apts.stats.costs import known
from bench_apts.stats.origins import TIMES
from bench_apts.stats.verdict import RULE

from ..cost_tables import UNCOUNTED
from ..findings import ranking
from ..table import Table, Value, name, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.currency import Currency

    from ..cells import Cell, Group

_EVERY: tuple[Currency, ...] = ("samples", "flops", "wire_bytes", "cpu_s", "core_seconds")

_SHORT = {"samples": "samples", "flops": "FLOPs", "wire_bytes": "bytes", "cpu_s": "CPU-seconds"}


def shown(group: Group, device: str) -> list[Currency]:
    """Return the currencies in which costs at one N are compared, the headline's first.

    Bytes need a second rank; CPU-seconds are no cost of a GPU; times do not compare between
    environments, and those of more ranks than cores measure the machine.

    Args:
        group: All optimizers at one N.
        device: ``cpu`` or ``cuda``.
    """
    left_out: set[Currency] = set()
    if group.ranks == 1:
        left_out.add("wire_bytes")
    if device == "cuda":
        left_out.add("cpu_s")
    if group.crowded:
        left_out.add("core_seconds")
    if group.unlike:
        left_out |= TIMES
    first = headline(device)
    return [first, *(one for one in _EVERY if one not in left_out and one != first)]


def _compared(group: Group) -> list[Cell]:
    """Return those with a search of their own: a follower's costs are its leader's draws."""
    return [cell for cell in group.cells if cell.draws and not cell.leader]


def table(groups: Sequence[Group], device: str) -> Table | None:
    """Ratios of expected costs to those of the headline's cheapest; None without any."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    columns = [one for one in _EVERY if any(one in shown(group, device) for group in groups)]
    columns.sort(key=lambda one: one != headline(device))
    for group in groups:
        cells = _compared(group)
        ranked = ranking(cells, headline(device))
        if not ranked or len(cells) < 2:
            continue
        breaks.add(len(rows))
        rows += [(name(cell.label, suite=group.suite.name),
                  number(str(group.ranks), ranks=group.ranks),
                  *(_ratio(cell, ranked[0], one, seen=one in shown(group, device))
                    for one in columns)) for cell in cells]
    if not rows:
        return None
    return Table(
        "currencies", "Expected cost over that of the cheapest, by what is counted",
        f"At each N the cheapest in {units.named(headline(device), device)} is 1. Below 1: "
        "cheaper than it in that currency. Samples, FLOPs and seconds are those of all ranks, "
        "bytes those that one rank sends. Tuning is included.",
        (("Optimizer", ""), ("N", "ranks"), *(
            (f"{(noun := _noun(one, device))[:1].upper()}{noun[1:]}", "ratio")
            for one in columns)),
        tuple(rows), frozenset(breaks))


def _noun(currency: Currency, device: str) -> str:
    return _SHORT.get(currency) or units.named(currency, device)


def _ratio(cell: Cell, best: Cell, currency: Currency, *, seen: bool) -> Value:
    column = f"ratio_{currency}"
    if not seen:
        return Value(units.NONE, numbers={column: None})
    if not known([*cell.outcomes(), *best.outcomes()], currency):
        return Value(UNCOUNTED, numbers={column: None})
    cost, base = cell.ert(currency).cost, best.ert(currency).cost
    if math.isinf(cost):
        return Value("not reached", numbers={column: None}, kind="number missed")
    if not base:
        return Value(units.NONE, numbers={column: None})
    return Value(units.digits(cost / base), numbers={column: cost / base})


def order(group: Group, device: str) -> str:
    """Say in a sentence that the cheapest depends on what is counted; "" where it does not.

    Args:
        group: All optimizers at one N.
        device: ``cpu`` or ``cuda``.
    """
    cells = _compared(group)
    ranked = ranking(cells, headline(device))
    if not ranked:
        return ""
    first: dict[str, list[str]] = {}
    for currency in shown(group, device):
        there = [cell for cell in cells if known(cell.outcomes(), currency)]
        if ranked[0] not in there:
            continue
        _, best = min(((cell.ert(currency).cost, cell) for cell in there),
                      key=lambda pair: pair[0])
        if ranked[0].ert(currency).cost <= RULE.least * best.ert(currency).cost:
            best = ranked[0]
        first.setdefault(best.label, []).append(_noun(currency, device))
    if len(first) < 2:
        return ""
    said = [f"{label} in {units.listing(nouns)}" for label, nouns in first.items()]
    return f"Which is cheapest depends on what is counted: {'; '.join(said)}."
