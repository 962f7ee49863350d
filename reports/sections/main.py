"""The main table: every optimizer at every N, tuning included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currency import headline
from bench_apts.reports import cost_tables, tuning_tables

from ..findings import ranking
from ..parts import Listing, Part

if TYPE_CHECKING:
    from ..cells import Group
    from ..context import Context


def part(context: Context) -> Part | None:
    """Builds the main table of a suite, what was frozen, and the cost at each level."""
    device = context.gathered.device
    chosen = tuning_tables.frozen(context.groups)
    return Part("main", "Main table", _finding(context), (
        Listing(cost_tables.main(context.groups, device, context.crowded), folded=False),
        *([Listing(chosen, folded=False)] if chosen else []),
        Listing(cost_tables.levels(context.groups, device), folded=False)))


def _finding(context: Context) -> str:
    parts = [text for group in context.groups if (text := _at(group, context.gathered.device))]
    if not parts:
        return "Nothing has been run yet."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. {context.conditions}"


def _at(group: Group, device: str) -> str:
    cells, currency = [cell for cell in group.cells if cell.draws], headline(device)
    reached = ranking(cells, currency)
    if not cells:
        return ""
    where = f"at N = {group.ranks}, "
    if not reached:
        return f"{where}none of {units.plural(len(cells), 'optimizer')} reached the target"
    costs = [cell.ert(currency).cost for cell in reached]
    span = (units.cost(currency, costs[0], device) if len(costs) == 1 else units.between(
        units.cost(currency, costs[0], device), units.cost(currency, costs[-1], device)))
    return (f"{where}{len(reached)} of {units.plural(len(cells), 'optimizer')} reached the "
            f"target, at an expected cost of {span}")
