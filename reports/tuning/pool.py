"""The trials of one optimizer at one N, as the statistics of the tuning bill take them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.stats import origins
from bench_apts.stats.amortisation import Trainings, tuned
from bench_apts.stats.costs import known, outcome
from bench_apts.stats.tuning import ert

from ..findings import ENOUGH
from ..table import Value, name, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.currency import Currency
    from bench_apts.core.records import TrialRecord
    from bench_apts.stats.tuning import Ert

    from ..cells import Cell, Group


class View(NamedTuple):
    """What costs are counted in, up to which level of the target, and on which device."""

    currency: Currency
    level: float
    device: str

    def show(self, cost: float) -> str:
        """Formats a cost with its unit."""
        return units.cost(self.currency, cost, self.device)

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

    cell: Cell
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


def pool(cell: Cell, view: View) -> Pool | None:
    """Reads the trials of a cell; None if there are none or the currency was not counted."""
    if view not in cell.pools:
        cell.pools[view] = _read(cell, view)
    return cell.pools[view]


def _read(cell: Cell, view: View) -> Pool | None:
    drawn = cell.outcomes(view.level)
    seeds = (cell.finals if view.level == 1 else
             [outcome(record, view.level) for record in cell.seeds])
    if not drawn or not known([*drawn, *seeds], view.currency):
        return None
    return Pool(cell, tuple(o.spent[view.currency] for o in drawn),
                tuple(o.cost[view.currency] for o in drawn),
                tuple((o.spent[view.currency], o.cost[view.currency]) for o in seeds))


def pools(groups: Iterable[Group], view: View) -> list[Pool]:
    """Reads the trials of all cells of which there are any with a known currency."""
    return [found for group in groups for cell in group.cells if (found := pool(cell, view))]


def unlike(pools: Iterable[Pool], view: View) -> str:
    """Say why costs in seconds of these trials do not compare; "" if they do."""
    if view.currency not in origins.TIMES:
        return ""
    return origins.unlike([record for found in pools
                           for record in (*found.cell.draws, *found.cell.seeds)])


def opening(cell: Cell, view: View) -> tuple[Value, Value]:
    """The first two entries of a row, the optimizer and N; few trials are marked."""
    return (name(cell.label, badge=_badge(cell), suite=cell.suite.name),
            number(str(cell.ranks), ranks=cell.ranks, level=view.level, currency=view.currency))


def few(cells: Sequence[Cell]) -> list[Cell]:
    """Returns those with fewer trials than an interval can be made of."""
    return [cell for cell in cells if 0 < len(cell.draws) < ENOUGH]


def _badge(cell: Cell) -> str:
    remarks = ["no tuning"] if cell.tuning_free else []
    if cell.leader:
        remarks.append(f"tuned as {cell.leader}")
    if few([cell]):
        remarks.append("few trials")
    return ", ".join(remarks)
