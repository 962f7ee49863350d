"""Tables of who is cheaper than whom, how sure that is, and whether it depends on the target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats.costs import known
from bench_apts.stats.origins import TIMES
from bench_apts.stats.stability import stability

from ..table import Table, Value, number, words
from ..tuning.pool import opening
from ..tuning.scene import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.comparison import Comparison

    from ..cells import Group
    from ..tuning.pool import View
    from .rivals import Ranking, Rival


def order(rankings: Sequence[Ranking], view: View) -> Table | None:
    """Expected cost of all, beside the reference's; None before any trial."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for ranking in rankings:
        breaks.add(len(rows))
        rows += [_row(ranking, rival, view) for rival in ranking.rivals]
    if not rows:
        return None
    return Table(
        "ranking", "Expected cost against the reference",
        "Ratio: expected cost, tuning included, over the reference's at the same N, with its 95 % "
        "interval; paired where the trials share their seeds. The reference is apts, or the "
        "cheapest where no apts reached the target. p: of exchanging the labels, after Holm's "
        "correction over all comparisons at that N. ★: the interval excludes 1, p is at most 5 %, "
        "and the ratio is beyond noise. Leads in: share of bootstrap resamples in which it is the "
        "cheapest, which is not the probability of being the best. Optimizers whose search was "
        "another's have no row.",
        (("Optimizer", ""), ("N", "ranks"), ("Suite", ""), ("Expected cost", ""),
         ("Ratio", "to the reference"), ("p", "Holm"), ("Leads in", "of resamples")),
        tuple(rows), frozenset(breaks))


def _row(ranking: Ranking, rival: Rival, view: View) -> tuple[Value, ...]:
    pool, comparison = rival.pool, rival.comparison
    against = ranking.reference.label if ranking.reference else None
    return (
        *opening(pool.cell, view),
        words(ranking.group.suite.name),
        view.entry("ert", pool.ert.cost, pool.ert.bound),
        _ratio(rival, against),
        number(units.NONE if comparison is None or comparison.interval is None
               else "too few trials" if rival.decision.verdict == "cannot be told"
               else _p(rival.decision.adjusted),
               p_holm=None if comparison is None else rival.decision.adjusted,
               star=rival.decision.differs),
        number(units.percent(rival.first, 0) if math.isfinite(rival.first)
               else "not judged" if ranking.unlike else "one trial",
               first_rank=finite(rival.first)))


def _ratio(rival: Rival, against: str | None) -> Value:
    comparison = rival.comparison
    interval = comparison.interval if comparison else None
    numbers = {
        "against": against, "paired": rival.paired,
        "ratio": finite(comparison.ratio) if comparison else None,
        "ratio_low": finite(interval.low) if interval else None,
        "ratio_high": finite(interval.high) if interval else None}
    if comparison is None:
        return Value("reference" if against else "none reached it", numbers=numbers)
    if math.isinf(comparison.ratio):
        return Value("never reached it", numbers=numbers, kind="number missed")
    star = " ★" if rival.decision.differs else ""
    if rival.unlike:
        return Value(units.digits(comparison.ratio), f"not judged: {rival.unlike}", numbers)
    return Value(units.digits(comparison.ratio) + star, _limits(comparison), numbers)


def _limits(comparison: Comparison) -> str:
    interval = comparison.interval
    if interval is None:
        return "one trial, no interval"
    low = units.digits(interval.low)
    return (f"{low} or more" if math.isinf(interval.high)
            else f"{low} to {units.digits(interval.high)}")


def _p(value: float) -> str:
    return units.digits(value, 2) if value >= 0.001 else "< 0.001"


def levels(groups: Sequence[Group], view: View) -> Table | None:
    """Kendall's τ-b of the rankings under each two levels of the target; None without trials."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        if view.currency in TIMES and group.unlike:
            continue
        every = group.suite.target.every_level
        cells = [cell for cell in group.cells if cell.draws and not cell.leader and all(
            known(cell.outcomes(level), view.currency) for level in every)]
        if not cells:
            continue
        breaks.add(len(rows))
        found = stability({level: {cell.label: cell.ert(view.currency, level).cost
                                   for cell in cells} for level in every})
        for (one, other), tau in found.taus.items():
            winners = [sorted(found.winners[level]) for level in (one, other)]
            rows.append((
                words(group.suite.name, suite=group.suite.name),
                number(str(group.ranks), ranks=group.ranks),
                words(f"{units.percent(one, 0)} and {units.percent(other, 0)}", level=one,
                      other_level=other),
                number("all tied" if tau is None else f"{tau:.2f}", kendall_tau=tau),
                *(words(units.listing(who) if who else "none reached it",
                        **{column: ", ".join(who)})
                  for column, who in zip(("lowest", "other_lowest"), winners, strict=True))))
    if not rows:
        return None
    return Table(
        "level-ranking", "The ranking under other levels of the target",
        "Kendall's τ-b between the orders of expected costs that two levels of the target give: "
        "1 where all pairs stand in the same order, −1 where all are reversed.",
        (("Suite", ""), ("N", "ranks"), ("Levels", ""), ("τ", "Kendall"),
         ("Cheapest", "at the one"), ("Cheapest", "at the other")), tuple(rows),
        frozenset(breaks))
