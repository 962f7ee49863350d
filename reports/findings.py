"""Small sentences and rankings that tables, figures and findings share."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal

from bench_apts.core import units
from bench_apts.stats import origins
from bench_apts.stats.costs import known
from bench_apts.stats.stability import stability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.currency import Currency

    from .cells import Cell, Group

ENOUGH = 5
"""Trials below which tables mark an optimizer as having few."""


Verdict = Literal["clear", "not told apart", "cannot be told", "none", "not judged"]
"""Whether one optimizer wins by the rule of ``stats.verdict``; the trials do not tell it from
others; they are so few that they never could; none hit; or the trials are of environments whose
times do not compare."""


def unstable(group: Group, currency: Currency) -> str:
    """Says how the winner depends on the level of the target; "" if it does not.

    And "" where the trials are of environments whose times do not compare.
    """
    if currency in origins.TIMES and group.unlike:
        return ""
    levels = group.suite.target.every_level
    cells = [cell for cell in group.cells if cell.draws and not cell.leader and all(
        known(cell.outcomes(level), currency) for level in levels)]
    found = stability({level: {cell.label: cell.ert(currency, level).cost for cell in cells}
                       for level in levels})
    if not found.winner_changes:
        return ""
    reached = [(level, sorted(found.winners[level])) for level in levels if found.winners[level]]
    parts = [f"{units.listing(names)} at "
             + units.listing([units.percent(level, 0) for level, _ in run])
             for names, run in itertools.groupby(reached, lambda pair: pair[1])]
    return (f"the winner depends on the level of the target, {group.suite.name} at "
            f"N = {group.ranks}: {', '.join(parts)}")


def ranking(cells: Sequence[Cell], currency: Currency) -> list[Cell]:
    """Returns the optimizers that reached the target, the cheapest expected cost first.

    Without those that follow another: they shared its search and do not compete with it.
    """
    reached = [cell for cell in cells
               if not cell.leader and math.isfinite(cell.ert(currency).cost)]
    return sorted(reached, key=lambda cell: cell.ert(currency).cost)


def followers(cells: Sequence[Cell], currency: Currency, device: str) -> str:
    """Say who is not ranked by cost as it shared a search, with its own cost; "" if nobody."""
    return " ".join(
        f"{cell.label} took over what {cell.leader}'s search found and is not ranked by cost; "
        f"the same search at {cell.label}'s own cost of a sample: "
        f"{_own_cost(cell, currency, device)}."
        for cell in cells if cell.leader)


def _own_cost(cell: Cell, currency: Currency, device: str) -> str:
    if currency == "samples":  # of which it needs as many as its leader
        others: tuple[Currency, ...] = ("cpu_s", "wire_bytes")
        currency = next((one for one in others if known(cell.outcomes(), one)
                         and cell.ert(one).total), currency)
    if not known(cell.outcomes(), currency):
        return "not known, as no trial of its own counted it"
    found = cell.ert(currency)
    if not found.hits:
        return f"more than {units.cost(currency, found.bound, device)}"
    return f"{units.cost(currency, found.cost, device)} expected"


def misses(hits: int, trials: int) -> str:
    """Says how many trials hit: ``0 of 4 reached it``."""
    return f"{hits} of {trials} reached it"
