"""What other tuning policies would have cost, replayed over a suite's recorded trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import store, units
from bench_apts.core.currencies import CURRENCIES
from bench_apts.reports.table import Table, Value, hits_of_trials, number, words
from bench_apts.reports.tuning_pools import opening_entries
from bench_apts.stats.learning_curves import Curve, curve
from bench_apts.stats.tuning_replay import Replayed, listed, replay, replay_all, sequential

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.tuning_pools import CostView, Pool

ARRIVALS = 40
"""Trials that arrive in an order at most, so that a replay of a large study ends."""

_CLOCKS = {"samples", *(currency for currency, row in CURRENCIES.items() if row.is_clock)}
"""In which trials of one optimizer at one N run side by side; a sample takes them equally long."""

_RACES = (2, 4)
_CUT = ("pruned", "interrupted")
_TITLES = {"median": "median pruning", "asha": "ASHA", "hyperband": "Hyperband"}


class ReplayedPolicy(NamedTuple):
    """One policy, replayed over the trials of one N.

    Attributes:
        suite: Name of the training problem.
        ranks: World size N.
        cell: Whose trials; None for a policy that tries one configuration of each optimizer.
        policy: Its name.
        entrants: How many configurations it may try.
        found: What it cost.
    """

    suite: str
    ranks: int
    cell: ReportCell | None
    policy: str
    entrants: int
    found: Replayed

    @property
    def title(self) -> str:
        """The policy as its authors write it."""
        return _TITLES.get(self.policy, self.policy)


def replayed_policies(pools: Sequence[Pool],
                      view: CostView) -> tuple[list[ReplayedPolicy], list[str]]:
    """Replay all policies over the trials of one suite.

    Args:
        pools: Trials of all optimizers at all N.
        view: Currency, level and device; trials race only in a currency that is a clock.

    Returns:
        The policies, N by N, and notes on what could not be replayed.

    Raises:
        UserError: A trial's file is corrupt.
    """
    found: list[ReplayedPolicy] = []
    notes: list[str] = []
    for ranks in sorted({pool.cell.ranks for pool in pools}):
        here = [pool for pool in pools if pool.cell.ranks == ranks]
        tuned = [pool for pool in here if pool.cell.tune]
        without: dict[str, list[str]] = {}
        for pool in tuned:
            if pool.cell.search_owner:
                continue  # a search that served several optimizers is replayed once
            if why := _not_replayable(pool):
                without.setdefault(why, []).append(_where(pool.cell))
            else:
                found += _own(pool, view)
        notes += [f"not replayed: {units.listing(names)}, {why}" for why, names in without.items()]
        own = [pool.cell for pool in here if not _imported(pool.cell)]
        if tuned and len(own) > 1:
            found += _defaults(own, view, notes)
    return found, notes


def _curve(record: TrialRecord, view: CostView) -> Curve:
    try:
        return curve(record, view.currency, view.level)
    except ValueError as error:  # what was not counted is not replayed at all
        raise store.broken(f"{record.path}: {error}") from error


def tries_a_list(cell: ReportCell) -> bool:
    """Say whether an optimizer's trials were taken from a list, in order, and not drawn.

    Such trials have no range that was searched. (The same holds where only options were
    searched; those trials, too, have an order.)
    """
    return len(cell.tune) > 1 and all(
        record.trial.searched is not None and not record.trial.searched.ranges
        for record in cell.tune)


def replay_table(found: Sequence[ReplayedPolicy], view: CostView) -> Table | None:
    """Return the policies with their costs; None without any."""
    if not found:
        return None
    limited = any(played.entrants > ARRIVALS for played in found)
    return Table(
        "bill-replay", "Tuning policies, replayed",
        "Replay: each policy tunes until the first hit, in 500 random orders of the same trials"
        f"{f', of which {ARRIVALS} arrive' if limited else ''}; a list in its own order. Cost: "
        "all that was spent for each order that hit. Falsely pruned: share of the pruned trials "
        "that would have hit. Hyperparameters that depend on the budget are not adapted. "
        "Defaults: the configuration of each optimizer without tuning and the first one tried of "
        "each other, in random order.",
        (("Optimizer", ""), ("N", ""), ("Policy", ""), ("Orders that hit", ""), ("Cost", "mean"),
         ("90 %", ""), ("Pruned", "of an order"), ("Falsely pruned", "")),
        tuple(_row(played, view) for played in found))


def _not_replayable(pool: Pool) -> str:
    """Say why an optimizer's trials cannot be replayed, "" if they can."""
    if _imported(pool.cell):
        return "as imported logs do not say whether a rule ended trials early"
    cut = [record for record in pool.cell.tune if not _whole(record)]
    if cut:
        return f"of which {units.plural(len(cut), 'trial')} did not run to the end"
    return "" if pool.ert.hits else f"as {hits_of_trials(0, pool.ert.trials)}"


def _imported(cell: ReportCell) -> bool:
    """Whether trials are of logs, which say nothing of a search's order, defaults or rules."""
    return any(record.header.imported for record in cell.draws)


def _own(pool: Pool, view: CostView) -> list[ReplayedPolicy]:
    """Replay policies over one optimizer's own trials."""
    cell = pool.cell
    if tries_a_list(cell):
        tried = _listed(cell)
        curves = {str(index): [_curve(record, view) for record in records]
                  for index, records in enumerate(tried)}
        return [ReplayedPolicy(cell.suite.name, cell.ranks, cell, f"ordered list of {len(tried)}",
                       len(tried), replay(sequential, listed(curves, ordered=True)))]
    found = replay_all(
        [_curve(record, view) for record in cell.tune], cell.suite.target.direction,
        races=_RACES if view.currency in _CLOCKS else (), limit=min(ARRIVALS, len(cell.tune)))
    return [ReplayedPolicy(cell.suite.name, cell.ranks, cell, policy, len(cell.tune), result)
            for policy, result in found.items()]


def _listed(cell: ReportCell) -> list[list[TrialRecord]]:
    """Return each configuration's trials, in the list's order; the frozen one's seeds as well."""
    every = [*cell.tune, *filter(_whole, cell.seeds)]
    return [_alike(record, every) for record in cell.tune]


def _defaults(cells: Sequence[ReportCell], view: CostView,
              notes: list[str]) -> list[ReplayedPolicy]:
    """Replay one configuration of each optimizer, in random order."""
    curves = {}
    for cell in cells:
        # Of a shared search only its check was its own.
        own = [*(cell.checks if cell.search_owner else cell.tune), *cell.seeds]
        trials = list(filter(_whole, _alike(own[0], own)))
        if not trials:
            notes.append(f"not among the defaults: {_where(cell)}, whose first configuration did "
                         "not run to the end")
            continue
        curves[cell.label] = [_curve(record, view) for record in trials]
    if len(curves) < 2:
        return []
    return [ReplayedPolicy(cells[0].suite.name, cells[0].ranks, None,
                           f"defaults of {len(curves)} optimizers", len(curves),
                           replay(sequential, listed(curves, ordered=False)))]


def _alike(like: TrialRecord, records: Iterable[TrialRecord]) -> list[TrialRecord]:
    values = like.trial.hyperparameters
    return [record for record in records if record.trial.hyperparameters == values]


def _whole(record: TrialRecord) -> bool:
    return record.end is not None and record.end.status not in _CUT


def _where(cell: ReportCell) -> str:
    return f"{cell.label} on {cell.suite.name} at N = {cell.ranks}"


def _row(played: ReplayedPolicy, view: CostView) -> tuple[Value, ...]:
    cell, found = played.cell, played.found
    tail = found.quantiles[0.9]
    falsely = None if math.isnan(found.falsely_pruned) else found.falsely_pruned
    head = opening_entries(cell, view) if cell else (
        Value("all", kind="name", numbers={"optimizer": "", "suite": played.suite}),
        number(str(played.ranks), ranks=played.ranks, level=view.level, currency=view.currency))
    return (
        *head,
        words(played.title, policy=played.policy, configurations=played.entrants),
        number(units.format_percent(found.hit_rate), orders=found.orders, hit_rate=found.hit_rate),
        view.entry("cost", found.cost, found.bill),
        view.entry("cost_q90", tail, 0.0),
        number(f"{found.pruned:.2f}", pruned=found.pruned),
        number(units.NONE if falsely is None else units.format_percent(falsely),
               falsely_pruned=falsely))
