"""The tuning bill of a study: all tables and remarks of ``bench-apts cost``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench_apts.errors import UserError

from . import tuning_bill_search, units
from .findings import ENOUGH, unstable
from .tuning_bill_pays import payoff, trainings
from .tuning_bill_pool import View, few, pool
from .tuning_bill_ranks import across
from .tuning_bill_replay import replayed

if TYPE_CHECKING:
    from bench_apts.spec import Suite
    from bench_apts.stats.costs import Currency

    from .cells import Cell
    from .gather import Gathered
    from .table import Table
    from .tuning_bill_pool import Pool


class Bill(NamedTuple):
    """What ``bench-apts cost`` shows.

    Attributes:
        warnings: What has to be read before any number.
        tables: Tables of each suite in the study's order; those of several suites share names.
        notes: What the numbers rest on, and what is missing.
    """

    warnings: list[str]
    tables: list[tuple[Suite, list[Table]]]
    notes: list[str]


def bill(gathered: Gathered, currency: Currency = "core_seconds", level: float = 1.0, *,
         replay: bool = True) -> Bill:
    """Works out what tuning cost in a study, and when it pays.

    Args:
        gathered: The study.
        currency: What the main columns count.
        level: Level of the target, the full one or one of the suites' own.
        replay: Whether tuning policies are replayed, which takes seconds.

    Raises:
        UserError: A suite's target has no such level.
    """
    view = View(currency, level, gathered.device)
    suites = gathered.file.study.suites
    for suite in suites:
        levels = suite.target.every_level
        if level not in levels:
            raise UserError(f"--level {level:g}: the target of {suite.name} has the levels "
                            f"{units.listing([f'{each:g}' for each in levels])}")
    warnings = [line for group in gathered.groups if (line := unstable(group, currency))]
    tables, notes, every = [], [], []
    for suite in suites:
        groups = [group for group in gathered.groups if group.suite == suite]
        cells = [cell for group in groups for cell in group.cells]
        pools = [found for cell in cells if (found := pool(cell, view))]
        totals, left_out = across(pools, view)
        policies, unplayed = replayed(pools, view) if replay else (None, [])
        shown = [tuning_bill_search.search(groups, view), tuning_bill_search.spread(pools, view),
                 trainings(pools, view), payoff(pools, view), totals, policies]
        tables.append((suite, [table for table in shown if table]))
        uncounted = [cell for cell in cells if cell.draws and not any(
            cell is other.cell for other in pools)]
        if uncounted:
            notes.append(f"no {currency} were counted for {_names(uncounted)} on {suite.name}")
        notes += [*left_out, *unplayed]
        every += pools
    return Bill(warnings, tables, [*notes, *_remarks(gathered, every)])


def _remarks(gathered: Gathered, pools: list[Pool]) -> list[str]:
    """What holds for the whole study."""
    study, notes = gathered.file.study, []
    tuned = [found for found in pools if found.cell.tune]
    if not tuned:
        notes.append("nothing was tuned in this study, so that there is no bill of tuning and no "
                     "break-even; trials are the report-stage seeds")
    stand_ins = sum(found.stand_ins for found in tuned)
    if stand_ins:
        notes.append(
            "training again with a frozen configuration costs the expected cost over its "
            f"report-stage seeds; {units.plural(stand_ins, 'other trial')} that hit "
            f"{'was' if stand_ins == 1 else 'were'} never rerun, and their own cost stands in, "
            "which is optimistic: the best of K is chosen for being cheap, partly by luck. So R* "
            "is rather too small")
    if tuned and study.sampler != "random":
        notes.append(f"configurations were drawn by {study.sampler}, not independently: the "
                     "study, not the trial, is the unit, and intervals of its trials mislead")
    pruned = sum(record.end is not None and record.end.status == "pruned"
                 for found in tuned for record in found.cell.tune)
    if pruned:
        notes.append(f"{units.plural(pruned, 'pruned trial')} "
                     f"{'counts' if pruned == 1 else 'count'} as misses, though some might have "
                     "hit")
    followers = [found.cell for found in tuned if found.cell.leader]
    if followers:
        notes.append(f"{_names(followers)}: the trials are those of the optimizer named beside, "
                     "whose search served both; bytes and seconds of tuning are that one's")
    scarce = few([cell for group in gathered.groups for cell in group.cells])
    if scarce:
        notes.append(f"few trials: fewer than {ENOUGH}; believe neither their intervals nor a "
                     "ranking")
    return notes


def _names(cells: list[Cell]) -> str:
    return units.listing([f"{cell.label} at N = {cell.ranks}" for cell in cells])
