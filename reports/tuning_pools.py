"""The trials of one optimizer as pools of costs: at one N, and tuned once for several N."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import TIME_CURRENCIES, format_cost
from bench_apts.reports.table import ENOUGH, Table, Value, name, number
from bench_apts.stats import trial_origins
from bench_apts.stats.amortisation import Trainings, tuned
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.trial_costs import all_known, outcome
from bench_apts.stats.world_sizes import WorldSizeCosts, transfer_regret, transfer_totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.stats.expected_cost import Ert

TRAININGS = (1, 10, 100)
"""Numbers of trainings R that bills are shown for."""


class CostView(NamedTuple):
    """What costs are counted in, up to which level of the target, and on which device."""

    currency: Currency
    level: float
    device: str

    def show(self, cost: float) -> str:
        """Format a cost with its unit."""
        return format_cost(self.currency, cost, self.device)

    def more_than(self, total: float) -> str:
        """Say what a cost exceeds where nothing hit; zero would look like a measurement."""
        return f"more than {self.show(total)}" if total else "not reached"

    def entry(self, column: str, cost: float, least: float, detail: str = "") -> Value:
        """Return a table's entry of an expected cost.

        Args:
            column: The CSV column, to which the currency is added.
            cost: Infinite if the target was not reached.
            least: What it is more than in that case.
            detail: Shown below a finite cost.
        """
        column = f"{column}_{self.currency}"
        if math.isfinite(cost):
            return Value(self.show(cost), detail, {column: cost})
        return Value(self.more_than(least), numbers={column: None}, kind="number missed")

    def missing(self, column: str, why: str) -> Value:
        """Return an entry that says why there is no cost."""
        return Value(why, numbers={f"{column}_{self.currency}": None}, kind="number missed")


@dataclass(frozen=True, eq=False)
class Pool:
    """What the trials of one optimizer on one suite at one N cost in one currency.

    Attributes:
        cell: Its records.
        spent: What each of ``cell.draws`` was billed, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        again: ``(spent, cost)`` of each report-stage seed of the frozen configuration.
    """

    cell: ReportCell
    spent: tuple[float, ...]
    cost: tuple[float, ...]
    again: tuple[tuple[float, float], ...]

    @cached_property
    def ert(self) -> Ert:
        """Expected cost to the target with fresh draws."""
        return ert(self.spent, self.cost)

    @cached_property
    def bill(self) -> Trainings | None:
        """Bills over the number of trainings; None while nothing ran on fresh seeds."""
        if not self.again:
            return None
        spent, cost = zip(*self.again, strict=True)
        return tuned(self.spent, self.cost, (spent, cost)) if self.cell.tune else Trainings(
            spent, cost)

    def fresh(self, like: TrialRecord) -> Ert | None:
        """ERT here of a trial's configuration on fresh seeds; None if it was not rerun here."""
        frozen = self.cell.frozen
        if frozen is None or frozen.trial.hyperparameters != like.trial.hyperparameters:
            return None
        return _ert(self.again)

    def trained(self, like: TrialRecord) -> Ert | None:
        """ERT here of the configuration of a trial at any N; None if it was not run here.

        From fresh report-stage seeds if it is the frozen one, else from tuning trials.
        """
        return self.fresh(like) or _ert([
            (spent, cost) for record, spent, cost in zip(
                self.cell.draws, self.spent, self.cost, strict=True)
            if record.trial.hyperparameters == like.trial.hyperparameters])


def _ert(runs: Sequence[tuple[float, float]]) -> Ert | None:
    return ert(*zip(*runs, strict=True)) if runs else None


# Sections share what a pool works out. A study has fewer cells and views than this.
@lru_cache(maxsize=4096)
def read_pool(cell: ReportCell, view: CostView) -> Pool | None:
    """Read the trials of a cell; None if there are none or the currency was not counted."""
    drawn = cell.outcomes(view.level)
    seeds = (cell.finals if view.level == 1 else
             [outcome(record, view.level) for record in cell.seeds])
    if not drawn or not all_known([*drawn, *seeds], view.currency):
        return None
    return Pool(cell, tuple(o.spent[view.currency] for o in drawn),
                tuple(o.cost[view.currency] for o in drawn),
                tuple((o.spent[view.currency], o.cost[view.currency]) for o in seeds))


def read_pools(groups: Iterable[CellGroup], view: CostView) -> list[Pool]:
    """Read the trials of all cells of which there are any with a known currency."""
    return [found for group in groups for cell in group.cells if (found := read_pool(cell, view))]


def unlike_environments(pools: Iterable[Pool], view: CostView) -> str:
    """Say why costs in seconds of these trials do not compare; "" if they do."""
    if view.currency not in TIME_CURRENCIES:
        return ""
    return trial_origins.unlike([record for pool in pools for record in pool.cell.records])


def opening_entries(cell: ReportCell, view: CostView) -> tuple[Value, Value]:
    """Return the first two entries of a row, the optimizer and N; few trials are marked."""
    remarks = [*(["no tuning"] if cell.tuning_free else []),
               *([f"tuned as {cell.search_owner}"] if cell.search_owner else []),
               *(["few trials"] if with_few_trials([cell]) else [])]
    return (name(cell.label, badge=", ".join(remarks), suite=cell.suite.name),
            number(str(cell.ranks), ranks=cell.ranks, level=view.level, currency=view.currency))


def with_few_trials(cells: Sequence[ReportCell]) -> list[ReportCell]:
    """Return the cells with fewer trials than an interval can be made of."""
    return [cell for cell in cells if 0 < len(cell.draws) < ENOUGH]


def transfer_bills(pools: Sequence[Pool], view: CostView) -> tuple[Table | None, list[str]]:
    """Compare tuning at each N with tuning at the smallest N and transferring, on one suite.

    Args:
        pools: Trials of all optimizers at all N.
        view: Currency, level and device.

    Returns:
        The table, None for a single N or if no optimizer was tuned; and notes on which ones are
        left out, and why.
    """
    sizes = sorted({pool.cell.ranks for pool in pools})
    if len(sizes) < 2 or not any(pool.cell.tune for pool in pools):
        return None, []
    rows: list[tuple[Value, ...]] = []
    notes = []
    for label in dict.fromkeys(pool.cell.label for pool in pools):
        mine = {pool.cell.ranks: pool for pool in pools if pool.cell.label == label}
        places, why = _bills_by_ranks(mine, sizes)
        if why:
            notes.append(f"totals across N leave out {label} on {pools[0].cell.suite.name}: {why}")
            continue
        rows += [_transfer_row(mine[sizes[0]].cell, places, count, view) for count in TRAININGS]
    if not rows:
        return None, notes
    return Table(
        "bill-world-sizes", f"Totals over N = {units.listing([str(n) for n in sizes])}",
        "Totals over N: tuning with all trials and training R times at each N, the tuning being "
        "the first training; or tuning at the smallest N alone and carrying its configuration "
        "over unchanged. Regret: expected cost with that configuration over expected cost with "
        "the one chosen at N; 1 where they are the same. A configuration that was not frozen at "
        "N has been run once there, in tuning: its regret is rough, and trainings with it are not "
        "billed. Not told: the bill of one N has an interval that is too wide.",
        (("Optimizer", ""), ("R", ""), ("Tune at each N", ""),
         (f"Tune at N = {sizes[0]} and transfer", ""),
         *((f"Regret at N = {n}", "") for n in sizes[1:])),
        tuple(rows)), notes


class _BillsAtN(NamedTuple):
    """Bills at one N: expected ones, and what they are at least where nothing hit.

    Attributes:
        ranks: World size N.
        tuned: Of the tuning trials.
        native: Of the configuration frozen here, on fresh seeds.
        transferred: Of the one frozen at the smallest N.
        fresh: Whether ``transferred`` is of fresh seeds too, and not of one tuning trial.
        bill: Of trainings here.
    """

    ranks: int
    tuned: Ert
    native: Ert
    transferred: Ert
    fresh: bool
    bill: Trainings

    def known(self, trainings: int) -> bool:
        """Whether the bill of R trainings is known well enough to be a number."""
        return (self.bill.interval(trainings) is None or not self.native.hits
                or self.bill.worth_a_number(trainings))

    def costs(self, *, least: bool) -> WorldSizeCosts:
        """Return the expected costs, or lower limits of them, which are always finite."""
        # All n trials are billed, since the configuration is the best of all n.
        bill = self.tuned.total if least or self.tuned.hits else math.inf
        return WorldSizeCosts(self.ranks, bill, *(
            found.bound if least and not found.hits else found.cost
            for found in (self.native, self.transferred)))


def _bills_by_ranks(mine: dict[int, Pool], sizes: Sequence[int]) -> tuple[list[_BillsAtN], str]:
    """Return the bills at each N, or in words what is missing."""
    first = mine.get(sizes[0])
    if first is None or len(mine) < len(sizes):
        return [], "it has no trials with known costs at some N"
    found = []
    for ranks, pool in sorted(mine.items()):
        if not pool.cell.tune:
            if first.cell.tune:
                return [], "it was tuned at some N only"
            assert pool.bill  # what is not tuned has nothing but fresh seeds
            found.append(_BillsAtN(ranks, pool.ert, pool.ert, pool.ert, True, pool.bill))
            continue
        if pool.cell.frozen is None or first.cell.frozen is None:
            where = sizes[0] if first.cell.frozen is None else ranks
            return [], f"no configuration could be chosen at N = {where}"
        native = pool.fresh(pool.cell.frozen)
        transferred = pool.trained(first.cell.frozen)
        if native is None or pool.bill is None:
            return [], f"the configuration chosen at N = {ranks} was not run on fresh seeds"
        if transferred is None:
            return [], f"the configuration chosen at N = {sizes[0]} was not run at N = {ranks}"
        found.append(_BillsAtN(ranks, pool.ert, native, transferred,
                               pool.fresh(first.cell.frozen) is not None, pool.bill))
    if any(not cost > 0 for place in found[1:] for cost in place.costs(least=True)[1:]):
        return [], "nothing was spent in this currency"
    return found, ""


def _transfer_row(cell: ReportCell, places: Sequence[_BillsAtN], count: int,
                  view: CostView) -> tuple[Value, ...]:
    """Return the totals of R trainings at each N of one optimizer."""
    totals = _tuned_totals if cell.tune else _untuned_totals
    each, transfer = totals(places, count, least=False)
    least = totals(places, count, least=True)
    known = all(place.known(count) for place in places)
    rerun = all(place.fresh for place in places[1:])
    return (
        name(cell.label, suite=cell.suite.name, badge="" if cell.tune else "no tuning"),
        number(str(count), trainings=count, level=view.level, currency=view.currency),
        view.entry("tune_each", each, least[0]) if known else view.missing(
            "tune_each", "not told"),
        view.entry("transfer", transfer, least[1]) if known and rerun else view.missing(
            "transfer", "not told" if rerun else "not rerun"),
        *(_regret(place) if cell.tune else Value(
            units.NONE, numbers={f"regret_{place.ranks}": None}) for place in places[1:]))


def _tuned_totals(places: Sequence[_BillsAtN], count: int, *, least: bool) -> tuple[float, float]:
    found = transfer_totals([place.costs(least=least) for place in places], count)
    return found.tune_each, found.transfer


def _untuned_totals(places: Sequence[_BillsAtN], count: int, *,
                    least: bool) -> tuple[float, float]:
    """Nothing is tuned or transferred: each training costs the ERT, at any N."""
    bill = math.fsum(count * place.costs(least=least).native for place in places)
    return bill, bill


def _regret(place: _BillsAtN) -> Value:
    column = f"regret_{place.ranks}"
    native, transferred = place.native, place.transferred
    if native.hits and transferred.hits:
        ratio = transfer_regret(transferred.cost, native.cost)
        return Value(units.digits(ratio), "" if place.fresh else "one trial", {column: ratio})
    if native.hits:
        least = transfer_regret(transferred.bound, native.cost)
        text = f"more than {units.digits(least)}" if math.isfinite(least) else "no hit"
    else:
        text = "only transferred hit" if transferred.hits else "neither hit"
    return Value(text, numbers={column: None}, kind="number missed")
