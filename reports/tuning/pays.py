"""When tuning pays: bills of R trainings, and from which R on tuning costs no more."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.stats.amortisation import break_even

from ..table import Table, Value, number, words
from .pool import opening, unlike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.amortisation import BreakEven
    from bench_apts.stats.bootstrap import Interval

    from .pool import Pool, View

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


def trainings(pools: Sequence[Pool], view: View) -> Table | None:
    """Bills of R trainings with their intervals; None without trials."""
    if not pools:
        return None
    rows = tuple((*opening(pool.cell, view), *(entry(pool, view, r) for r in TRAININGS))
                 for pool in pools)
    return Table(
        "bill-trainings", "Bill of R trainings, tuning included",
        "R trainings of a tuned optimizer: all its tuning trials, the first training among them, "
        "and R − 1 times the expected cost of the frozen configuration on fresh seeds. Without "
        "tuning: R times the expected cost. What tuning cost is a fact; the rest has its 95 % "
        "interval, and stands alone where that is too wide for a number (docs/statistics.md).",
        (("Optimizer", ""), ("N", ""), *((f"R = {r}", "") for r in TRAININGS)), rows)


def entry(pool: Pool, view: View, count: int) -> Value:
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
        shown = view.entry(column, bill, bill, limits(interval, view))
    else:
        assert interval
        shown = Value(limits(interval, view), numbers={f"{column}_{view.currency}": None},
                      kind="number missed")
    return _limited(shown, column, view, interval)


def _limited(value: Value, column: str, view: View, interval: Interval | None) -> Value:
    return replace(value, numbers={
        **value.numbers, f"{column}_{view.currency}_low": interval.low if interval else None,
        f"{column}_{view.currency}_high": interval.high if interval else None})


def limits(interval: Interval, view: View) -> str:
    """Format the interval of a cost, for instance ``2.00 to 3.00 core-s``."""
    if math.isinf(interval.high):
        return f"{view.show(interval.low)} or more"
    return units.between(view.show(interval.low), view.show(interval.high))


def payoff(pools: Sequence[Pool], view: View) -> Table | None:
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


def _payoff(mine: Pool, theirs: Pool, view: View) -> tuple[Value, ...]:
    label, other = mine.cell.label, theirs.cell.label
    start = (*opening(mine.cell, view), words(other, against=other))

    def row(said: str, verdict: str, found: BreakEven | None = None) -> tuple[Value, ...]:
        told = found is not None and found.told
        return (*start, words(said, verdict=verdict), number(
            (f"{found.trainings:.0f} ({span(found.interval)})" if told else span(found.interval))
            if found else "none",
            break_even=found.trainings if found and told else None,
            break_even_low=found.interval.low if found else None,
            break_even_high=found.interval.high if found else None))

    if apart := unlike((mine, theirs), view):
        return row(f"not judged: trials differ in {apart}", "not judged")
    if not mine.ert.hits:
        return row(f"not known: no tuning trial of {label} reached the target", "not known")
    for pool in (mine, theirs):
        if pool.bill is None:
            return row(f"not known: {pool.cell.label} was not run on fresh seeds", "not known")
    assert mine.bill
    assert theirs.bill
    found = break_even(mine.bill, theirs.bill)
    return row(sentence(label, found), verdict(found), found)


def verdict(found: BreakEven) -> str:
    """Say in words from how many trainings on tuning pays, as far as the trials tell."""
    if found.never:
        return "never"
    if found.told:
        return f"from {found.trainings:.0f} training{'s' * (found.trainings != 1)} on"
    return f"not told: {span(found.interval)}"


def sentence(label: str, found: BreakEven) -> str:
    """Say when tuning pays: ``tuning adam pays from 14 trainings on (10 to 22)``."""
    if found.never:
        return f"tuning {label} never pays"
    if found.told:
        return f"tuning {label} pays {verdict(found)} ({span(found.interval)})"
    low, high = found.interval
    if math.isinf(low):
        return (f"tuning {label} never paid by these trials, but "
                f"{units.plural(found.seeds, 'fresh seed')} cannot tell")
    first = f"{low:.0f} training{'s' * (low != 1)}"
    last = "never" if math.isinf(high) else f"{high:.0f}"
    return (f"these trials do not tell from when on tuning {label} pays (between {first} and "
            f"{last})")


def span(interval: Interval) -> str:
    """Format an interval of R*, for instance ``4 to never``."""
    low, high = (f"{value:.0f}" if math.isfinite(value) else "never" for value in interval)
    return low if low == high else f"{low} to {high}"


def pays(pools: Sequence[Pool], view: View, against: Pool | None) -> str:
    """Say from how many trainings on tuning pays against an optimizer without tuning.

    Args:
        pools: Optimizers with a search of their own, or none.
        view: Currency, level and device.
        against: The optimizer without tuning; None if none reached the target.
    """
    if apart := unlike(pools, view):
        return f"When tuning pays is not judged: trials differ in {apart}."
    if against is None:
        return "No optimizer without tuning reached the target: nothing to break even with."
    tuned = [pool for pool in pools if pool.cell.tune and pool.ert.hits]
    if not tuned:
        return f"Only {against.cell.label}, without tuning, reached the target."
    found = sorted(crossings(tuned, [against]), key=lambda each: each.found.trainings)
    if not found:
        return "When tuning pays is not known: nothing was run on fresh seeds."
    said = [sentence(each.tuned.cell.label, each.found) for each in found]
    return f"Against {against.cell.label}: {'; '.join(said)}."
