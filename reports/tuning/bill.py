"""The tuning bill of a study: all tables and remarks of ``bench-apts cost``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currency import headline
from bench_apts.core.errors import UserError
from bench_apts.stats.origins import TIMES

from ..findings import ENOUGH, unstable
from .across import across
from .pays import payoff, trainings
from .pool import View, few, pools
from .replay import Replays, tries_a_list
from .replay import table as replay_table
from .search import search, spread
from .width import narrowed
from .width import table as width_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.currency import Currency
    from bench_apts.core.spec import Study, Suite

    from ..cells import Cell, Group
    from ..gather import Gathered
    from ..table import Table
    from .pool import Pool
    from .replay import Played


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


class SuiteBill(NamedTuple):
    """The bill of one suite.

    Attributes:
        pools: Trials of all optimizers with known costs, N by N.
        policies: Replayed tuning policies.
        tables: All of its tables.
        notes: What is missing in them.
    """

    pools: list[Pool]
    policies: list[Played]
    tables: list[Table]
    notes: list[str]


def bill(gathered: Gathered, currency: Currency | None = None, level: float = 1.0, *,
         replay: bool = True) -> Bill:
    """Works out what tuning cost in a study, and when it pays.

    Args:
        gathered: The study.
        currency: What the main columns count; None for the headline of the study's device.
        level: Level of the target, the full one or one of the suites' own.
        replay: Whether tuning policies are replayed, which takes seconds.

    Raises:
        UserError: A suite's target has no such level, or what replays ended without an answer.
    """
    currency = currency or headline(gathered.device)
    view = View(currency, level, gathered.device)
    suites = gathered.file.study.suites
    for suite in suites:
        levels = suite.target.every_level
        if level not in levels:
            raise UserError(f"--level {level:g}: the target of {suite.name} has the levels "
                            f"{units.listing([f'{each:g}' for each in levels])}")
    warnings = [*([gathered.copies] if gathered.copies else []), *(
        f"{group.suite.name} at N = {group.ranks}: times are not judged, as trials differ in "
        f"{group.unlike}" for group in gathered.groups if currency in TIMES and group.unlike)]
    warnings += [line for group in gathered.groups if (line := unstable(group, currency))]
    with contextlib.ExitStack() as stack:
        replays = (stack.enter_context(Replays(pools(gathered.groups, view), view)) if replay
                   else None)
        found = [suite_bill([group for group in gathered.groups if group.suite == suite], view,
                            replays) for suite in suites]
    notes = [note for each in found for note in each.notes]
    notes += remarks(gathered.file.study, gathered.groups,
                     [pool for each in found for pool in each.pools])
    return Bill(warnings, [(suite, each.tables)
                           for suite, each in zip(suites, found, strict=True)], notes)


def suite_bill(groups: Sequence[Group], view: View, replays: Replays | None) -> SuiteBill:
    """Works out the bill of one suite.

    Args:
        groups: Its optimizers at each N, N ascending.
        view: Currency, level and device.
        replays: Tuning policies over trials of this suite at least; None to leave them out.

    Raises:
        UserError: What replays them ended without an answer.
    """
    cells = [cell for group in groups for cell in group.cells]
    found = pools(groups, view)
    totals, left_out = across(found, view)
    tables = [search(groups, view), spread(found, view),
              trainings(found, view), payoff(found, view), width_table(narrowed(found), view),
              totals]
    # Last of all, as others replay them in the meantime.
    policies, unplayed = replays.of(found) if replays else ([], [])
    tables.append(replay_table(policies, view))
    uncounted = [cell for cell in cells if cell.draws and not any(
        cell is other.cell for other in found)]
    notes = [*left_out, *unplayed]
    if uncounted:
        notes.insert(0, f"no {view.currency} were counted for {_names(uncounted)} on "
                        f"{groups[0].suite.name}")
    return SuiteBill(found, policies, [table for table in tables if table], notes)


def remarks(study: Study, groups: Sequence[Group], pools: Sequence[Pool]) -> list[str]:
    """Says what the bills of these groups rest on."""
    notes = []
    tuned = [found for found in pools if found.cell.tune]
    if not tuned:
        notes.append("nothing was tuned in this study, so that there is no bill of tuning and no "
                     "break-even; trials are the report-stage seeds")
    lacking = [found.cell for found in tuned if not found.again and found.ert.hits]
    if lacking:
        notes.append(f"no bill of several trainings and no break-even of {_names(lacking)}: the "
                     "frozen configuration was not run on fresh seeds, and a tuning trial's own "
                     "cost was chosen for being low")
    if tuned and study.sampler != "random":
        notes.append(f"configurations were drawn by {study.sampler}, not independently: the "
                     "study, not the trial, is the unit, and intervals of its trials mislead")
    listed = [found.cell for found in tuned if tries_a_list(found.cell)]
    if listed:
        notes.append(f"trials of {_names(listed)} are a list that is tried in its order, not "
                     "draws; but for the replay, all numbers are those of a random order")
    if any(found.cell.seeds and not found.cell.leader for found in tuned):
        notes.append("seconds of tuning trials are their samples at the pace of the same "
                     "optimizer's final trainings: tuning ran earlier, perhaps side by side with "
                     "other trials (--jobs), and optimizers without tuning were timed later")
    pruned = sum(record.end is not None and record.end.status == "pruned"
                 for found in tuned for record in found.cell.tune)
    if pruned:
        notes.append(f"{units.plural(pruned, 'pruned trial')} "
                     f"{'counts' if pruned == 1 else 'count'} as misses, though some might have "
                     "hit")
    followers = [found.cell for found in tuned if found.cell.leader]
    if followers:
        notes.append(f"{_names(followers)} took over another's search: its trials, at the "
                     "follower's own cost of a sample, are its bill; it is ranked nowhere by cost")
    scarce = few([cell for group in groups for cell in group.cells])
    if scarce:
        notes.append(f"few trials: fewer than {ENOUGH}; believe neither their intervals nor a "
                     "ranking")
    return notes


def _names(cells: Sequence[Cell]) -> str:
    """Names optimizers, each with all its N."""
    sizes: dict[str, list[str]] = {}
    for cell in cells:
        sizes.setdefault(cell.label, []).append(str(cell.ranks))
    return units.listing([f"{label} at N = {units.listing(there)}"
                          for label, there in sizes.items()])
