"""The trials of one optimizer at one N, as the statistics of the tuning bill take them.

When tuning pays: bills of R trainings, and from which R on tuning costs no more.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import TIME_CURRENCIES, format_cost
from bench_apts.reports.table import ENOUGH, Table, Value, name, number, words
from bench_apts.stats import trial_origins
from bench_apts.stats.amortisation import Trainings, break_even, tuned
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.trial_costs import all_known, outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.stats.amortisation import BreakEven
    from bench_apts.stats.expected_cost import Ert
    from bench_apts.stats.intervals import Interval

class CostView(NamedTuple):
    """What costs are counted in, up to which level of the target, and on which device."""

    currency: Currency
    level: float
    device: str

    def show(self, cost: float) -> str:
        """Formats a cost with its unit."""
        return format_cost(self.currency, cost, self.device)

    def more_than(self, total: float) -> str:
        """Says what a cost exceeds where nothing hit; zero would sound like a measurement."""
        return f"more than {self.show(total)}" if total else "not reached"

    def entry(self, column: str, cost: float, least: float, detail: str = "") -> Value:
        """Returns a table's entry of an expected cost.

        Args:
            column: The CSV column, to which the currency is added.
            cost: Infinite if the target was not reached.
            least: What it is more than in that case.
            detail: Shown beside a finite cost.
        """
        column = f"{column}_{self.currency}"
        if math.isfinite(cost):
            return Value(self.show(cost), detail, {column: cost})
        return Value(self.more_than(least), numbers={column: None}, kind="number missed")


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
        again = ([bill for bill, _ in self.again], [value for _, value in self.again])
        return tuned(self.spent, self.cost, again) if self.cell.tune else Trainings(*again)

    def fresh(self, like: TrialRecord) -> Ert | None:
        """ERT here of a trial's configuration on fresh seeds; None if it was not rerun here."""
        frozen = self.cell.frozen
        if not self.again or frozen is None or (
                frozen.trial.hyperparameters != like.trial.hyperparameters):
            return None
        return ert([bill for bill, _ in self.again], [value for _, value in self.again])

    def trained(self, like: TrialRecord) -> Ert | None:
        """ERT here of the configuration of a trial at any N; None if nobody ran it here.

        From fresh report-stage seeds if it is the frozen one, else from tuning trials.
        """
        if found := self.fresh(like):
            return found
        runs = [(bill, value) for record, bill, value in zip(
            self.cell.draws, self.spent, self.cost, strict=True)
            if record.trial.hyperparameters == like.trial.hyperparameters]
        return ert([bill for bill, _ in runs], [value for _, value in runs]) if runs else None


def read_pool(cell: ReportCell, view: CostView) -> Pool | None:
    """Reads the trials of a cell; None if there are none or the currency was not counted."""
    if view not in cell.pools:
        cell.pools[view] = _read(cell, view)
    return cell.pools[view]


def _read(cell: ReportCell, view: CostView) -> Pool | None:
    drawn = cell.outcomes(view.level)
    seeds = (cell.finals if view.level == 1 else
             [outcome(record, view.level) for record in cell.seeds])
    if not drawn or not all_known([*drawn, *seeds], view.currency):
        return None
    return Pool(cell, tuple(o.spent[view.currency] for o in drawn),
                tuple(o.cost[view.currency] for o in drawn),
                tuple((o.spent[view.currency], o.cost[view.currency]) for o in seeds))


def read_pools(groups: Iterable[CellGroup], view: CostView) -> list[Pool]:
    """Reads the trials of all cells of which there are any with a known currency."""
    return [found for group in groups for cell in group.cells if (found := read_pool(cell, view))]


def unlike_environments(pools: Iterable[Pool], view: CostView) -> str:
    """Say why costs in seconds of these trials do not compare; "" if they do."""
    if view.currency not in TIME_CURRENCIES:
        return ""
    return trial_origins.unlike([record for found in pools
                           for record in (*found.cell.draws, *found.cell.seeds)])


def opening_entries(cell: ReportCell, view: CostView) -> tuple[Value, Value]:
    """The first two entries of a row, the optimizer and N; few trials are marked."""
    return (name(cell.label, badge=_badge(cell), suite=cell.suite.name),
            number(str(cell.ranks), ranks=cell.ranks, level=view.level, currency=view.currency))


def with_few_trials(cells: Sequence[ReportCell]) -> list[ReportCell]:
    """Returns those with fewer trials than an interval can be made of."""
    return [cell for cell in cells if 0 < len(cell.draws) < ENOUGH]


def _badge(cell: ReportCell) -> str:
    remarks = ["no tuning"] if cell.tuning_free else []
    if cell.leader:
        remarks.append(f"tuned as {cell.leader}")
    if with_few_trials([cell]):
        remarks.append("few trials")
    return ", ".join(remarks)


TRAININGS = (1, 10, 100)
"""Numbers of trainings R that bills are shown for."""

MANY = 10
"""Trainings over which it is asked who is cheapest once tuning is paid."""


class Crossing(NamedTuple):
    """Where the bill of an optimizer that is tuned meets that of one that is not."""

    tuned: Pool
    free: Pool
    found: BreakEven


def crossings(pools: Sequence[Pool], against: Sequence[Pool]) -> list[Crossing]:
    """Find the break-even of each tuned optimizer that hit against each of others.

    Those without trainings on fresh seeds have none.
    """
    return [Crossing(mine, theirs, break_even(mine.bill, theirs.bill))
            for theirs in against for mine in pools
            if mine.cell.tune and mine.ert.hits and mine.bill and theirs.bill]


def first_to_pay(found: Sequence[Crossing]) -> Crossing | None:
    """Return whose tuning pays first; of those that never do, the cheapest over many trainings."""
    return min(found, key=lambda each: (
        each.found.trainings, each.tuned.bill.at(MANY) if each.tuned.bill else math.inf),
        default=None)


def trainings_table(pools: Sequence[Pool], view: CostView) -> Table | None:
    """Bills of R trainings with their intervals; None without trials."""
    if not pools:
        return None
    rows = tuple(
        (*opening_entries(pool.cell, view), *(bill_entry(pool, view, r) for r in TRAININGS))
        for pool in pools
    )
    return Table(
        "bill-trainings", "Bill of R trainings, tuning included",
        "R trainings of a tuned optimizer: all its tuning trials, the first training among them, "
        "and R − 1 times the expected cost of the frozen configuration on fresh seeds. Without "
        "tuning: R times the expected cost. What tuning cost is a fact; the rest has its 95 % "
        "interval, and stands alone where that is too wide for a number (docs/statistics.md).",
        (("Optimizer", ""), ("N", ""), *((f"R = {r}", "") for r in TRAININGS)), rows)


def bill_entry(pool: Pool, view: CostView, count: int) -> Value:
    """Return a table's entry of the bill of R trainings.

    It is a number where it is a fact or its interval is worth one, else only the interval.
    """
    column = f"bill_{count}"
    if pool.cell.tune and pool.ert.hits and count == 1:
        # A fact of the record, whether or not anything was rerun.
        return _limited(view.entry(column, pool.ert.total, 0.0, "as spent"), column, view, None)
    if pool.bill is None:
        if not pool.ert.hits:
            return _limited(view.entry(column, math.inf, pool.ert.bound), column, view, None)
        return _limited(Value("not rerun", numbers={f"{column}_{view.currency}": None}),
                        column, view, None)
    bill, interval = pool.bill.at(count), pool.bill.interval(count)
    if not bill:  # a rank alone sends no bytes
        return _limited(view.entry(column, bill, 0.0), column, view, None)
    if pool.bill.worth_a_number(count):
        assert interval
        shown = view.entry(column, bill, bill, interval_words(interval, view))
    else:
        assert interval
        shown = Value(interval_words(interval, view), numbers={f"{column}_{view.currency}": None},
                      kind="number missed")
    return _limited(shown, column, view, interval)


def _limited(value: Value, column: str, view: CostView, interval: Interval | None) -> Value:
    return replace(value, numbers={
        **value.numbers, f"{column}_{view.currency}_low": interval.low if interval else None,
        f"{column}_{view.currency}_high": interval.high if interval else None})


def interval_words(interval: Interval, view: CostView) -> str:
    """Format the interval of a cost, for instance ``2.00 to 3.00 core-s``."""
    if math.isinf(interval.high):
        return f"{view.show(interval.low)} or more"
    return units.between(view.show(interval.low), view.show(interval.high))


def payoff_table(pools: Sequence[Pool], view: CostView) -> Table | None:
    """Break-even R* of each tuned optimizer against each untuned; None without such a pair."""
    rows = []
    for _, there in itertools.groupby(pools, lambda pool: pool.cell.ranks):
        here = list(there)
        rows += [_payoff(mine, theirs, view)
                 for mine, theirs in itertools.product(here, here)
                 if mine.cell.tune and not theirs.cell.tune and not mine.cell.leader
                 and (mine.ert.total or theirs.ert.total)]  # a rank alone sends no bytes
    if not rows:
        return None
    return Table(
        "bill-break-even", "When tuning pays",
        "R*: the least number of trainings for which the bill with tuning is no more than that "
        "without. It is a number where its 95 % interval is narrow enough (docs/statistics.md).",
        (("Optimizer", ""), ("N", ""), ("Against", ""), ("Verdict", ""),
         ("R*", "95 % interval")), tuple(rows))


def _payoff(mine: Pool, theirs: Pool, view: CostView) -> tuple[Value, ...]:
    label, other = mine.cell.label, theirs.cell.label
    start = (*opening_entries(mine.cell, view), words(other, against=other))

    def row(said: str, verdict: str, found: BreakEven | None = None) -> tuple[Value, ...]:
        told = found is not None and found.is_known
        return (
            *start,
            words(said, verdict=verdict),
            number(
                (
                    f"{found.trainings:.0f} ({crossing_span(found.interval)})"
                    if told
                    else crossing_span(found.interval)
                )
                if found
                else "none",
                break_even=found.trainings if found and told else None,
                break_even_low=found.interval.low if found else None,
                break_even_high=found.interval.high if found else None,
            ),
        )

    if apart := unlike_environments((mine, theirs), view):
        return row(f"not judged: trials differ in {apart}", "not judged")
    if not mine.ert.hits:
        return row(f"not known: no tuning trial of {label} reached the target", "not known")
    for pool in (mine, theirs):
        if pool.bill is None:
            return row(f"not known: {pool.cell.label} was not run on fresh seeds", "not known")
    assert mine.bill
    assert theirs.bill
    found = break_even(mine.bill, theirs.bill)
    return row(payoff_sentence(label, found), payoff_words(found), found)


def payoff_words(found: BreakEven) -> str:
    """Say in words from how many trainings on tuning pays, as far as the trials tell."""
    if found.never:
        return "never"
    if found.is_known:
        return f"from {found.trainings:.0f} training{'s' * (found.trainings != 1)} on"
    return f"not told: {crossing_span(found.interval)}"


def payoff_sentence(label: str, found: BreakEven) -> str:
    """Say when tuning pays: ``tuning adam pays from 14 trainings on (10 to 22)``."""
    if found.never:
        return f"tuning {label} never pays"
    if found.is_known:
        return f"tuning {label} pays {payoff_words(found)} ({crossing_span(found.interval)})"
    low, high = found.interval
    if math.isinf(low):
        return (f"tuning {label} never paid by these trials, but "
                f"{units.plural(found.seeds, 'fresh seed')} cannot tell")
    first = f"{low:.0f} training{'s' * (low != 1)}"
    last = "never" if math.isinf(high) else f"{high:.0f}"
    return (f"these trials do not tell from when on tuning {label} pays (between {first} and "
            f"{last})")


def crossing_span(interval: Interval) -> str:
    """Format an interval of R*, for instance ``4 to never``."""
    low, high = (f"{value:.0f}" if math.isfinite(value) else "never" for value in interval)
    return low if low == high else f"{low} to {high}"


def pays_from(pools: Sequence[Pool], view: CostView, against: Pool | None) -> str:
    """Say from how many trainings on tuning pays against an optimizer without tuning.

    Args:
        pools: Optimizers with a search of their own, or none.
        view: Currency, level and device.
        against: The optimizer without tuning; None if none reached the target.
    """
    if apart := unlike_environments(pools, view):
        return f"When tuning pays is not judged: trials differ in {apart}."
    if against is None:
        return "No optimizer without tuning reached the target: nothing to break even with."
    tuned = [pool for pool in pools if pool.cell.tune and pool.ert.hits]
    if not tuned:
        return f"Only {against.cell.label}, without tuning, reached the target."
    found = sorted(crossings(tuned, [against]), key=lambda each: each.found.trainings)
    if not found:
        return "When tuning pays is not known: nothing was run on fresh seeds."
    said = [payoff_sentence(each.tuned.cell.label, each.found) for each in found]
    return f"Against {against.cell.label}: {'; '.join(said)}."
