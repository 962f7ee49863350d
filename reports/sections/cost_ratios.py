"""Each optimizer's expected cost against a reference's: ratios, Holm's correction, P(rank 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currencies import TIME_CURRENCIES
from bench_apts.reports import tuning_pools
from bench_apts.reports.table import Table, Value, finite, grouped_table, known, number, words
from bench_apts.stats.pairwise_comparison import Bill, Comparison, compare, first_ranks
from bench_apts.stats.verdict import Decision, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.tuning_pools import Pool

_UNJUDGED = Decision(1.0, "cannot be told")


@dataclass(frozen=True)
class RankedOptimizer:
    """One optimizer at one N against the reference.

    Attributes:
        pool: Its trials.
        comparison: Its expected cost over the reference's; None for the reference itself.
        decision: Whether the difference may be claimed, corrected over all rivals at this N.
        paired: Whether its trials and the reference's share their seeds.
        first: Share of resamples in which its expected cost is the lowest; NaN if unknown.
        unlike: In what its trials' environments differ from the reference's, so that the costs
            are not judged; or "".
    """

    pool: Pool
    comparison: Comparison | None
    decision: Decision
    paired: bool
    first: float
    unlike: str = ""


@dataclass(frozen=True)
class Ranking:
    """All optimizers at one N.

    Attributes:
        group: Suite and N.
        reference: The cheapest that declares a family and reached the target, else the cheapest of
            all; None if no optimizer reached it.
        rivals: The cheapest first, without those whose search was another's: they would be the
            same rival again.
        unlike: In what the environments of all their trials differ, so that no optimizer is called
            the first; or "".
    """

    group: CellGroup
    reference: ReportCell | None
    rivals: tuple[RankedOptimizer, ...]
    unlike: str = ""

    @property
    def best(self) -> RankedOptimizer | None:
        """Who is first most often; None where that is unknown or none hit."""
        known = [rival for rival in self.rivals if rival.first > 0]
        return max(known, key=lambda rival: rival.first, default=None)


def rank_optimizers(group: CellGroup, view: tuning_pools.CostView) -> Ranking:
    """Compare all optimizers at one N.

    Args:
        group: Suite and N.
        view: Currency, level and device.
    """
    every = [found for cell in group.cells if (found := tuning_pools.read_pool(cell, view))]
    pools = sorted((found for found in every if not found.cell.search_owner and found.ert.total),
                   key=lambda found: (found.ert.cost, -found.ert.hits))
    hit = [found for found in pools if found.ert.hits]
    base = next((found for found in hit if found.cell.family), hit[0] if hit else None)
    unlike = tuning_pools.unlike_environments(pools, view)
    shares = dict.fromkeys((found.cell.label for found in pools), math.nan)
    if not unlike:
        shares |= _first_ranks(pools)
    rivals = [RankedOptimizer(found, None, _UNJUDGED, base is not None and _pairs(found, base),
                              shares[found.cell.label]) for found in pools]
    return Ranking(group, base.cell if base else None,
                   tuple(_judge(group, rivals, base, view)) if base else tuple(rivals), unlike)


def _judge(group: CellGroup, rivals: Sequence[RankedOptimizer], base: Pool,
           view: tuning_pools.CostView) -> Iterator[RankedOptimizer]:
    """Compare each with the reference; those of one environment with it are one family."""
    apart = {rival.pool.cell.label: tuning_pools.unlike_environments((rival.pool, base), view)
             for rival in rivals if rival.pool is not base}
    family = [rival for rival in rivals if apart.get(rival.pool.cell.label) == ""]
    found = [compare(Bill(rival.pool.spent, rival.pool.cost), Bill(base.spent, base.cost),
                     paired=rival.paired) for rival in family]
    noise = group.noise if view.currency in TIME_CURRENCIES else None
    decisions = decide([
        each.evidence(noise.of_mean(min(len(rival.pool.spent), len(base.spent))) if noise else 1.0)
        for rival, each in zip(family, found, strict=True)])
    judged = {rival.pool.cell.label: (each, decision) for rival, each, decision in zip(
        family, found, decisions, strict=True)}
    for rival in rivals:
        label = rival.pool.cell.label
        if label in judged:
            comparison, decision = judged[label]
            yield replace(rival, comparison=comparison, decision=decision)
        elif apart.get(label):
            ratio = rival.pool.ert.cost / base.ert.cost if base.ert.cost else math.nan
            yield replace(rival, comparison=Comparison(ratio, None, 1.0, 1.0),
                          unlike=apart[label])
        else:
            yield rival


def _first_ranks(pools: Sequence[Pool]) -> dict[str, float]:
    """Return the share of resamples in which each is first, of those with several trials."""
    able = [found for found in pools if len(found.spent) > 1]
    if not able:
        return {}
    return dict(first_ranks({found.cell.label: Bill(found.spent, found.cost) for found in able},
                            paired=all(_pairs(found, able[0]) for found in able)))


def _pairs(one: Pool, other: Pool) -> bool:
    """Whether the k-th trials of both had the same weights and data."""
    return ([record.trial.seeds for record in one.cell.draws]
            == [record.trial.seeds for record in other.cell.draws])


def ranking_table(rankings: Sequence[Ranking], view: tuning_pools.CostView) -> Table:
    """Return the expected cost of all, and its ratio to the reference's."""
    return grouped_table(
        "ranking", "Expected cost against the reference",
        "Ratio: expected cost, tuning included, over the reference's at the same N, with its 95 % "
        "interval; paired where the trials share their seeds. The reference is the cheapest that "
        "declares a family (docs/optimizers.md) and reached the target, else the cheapest of all. "
        "p: of exchanging the labels, after Holm's correction over all comparisons at that N. ★: "
        "the interval excludes 1, p is at most 5 %, and the ratio is beyond noise. Leads in: "
        "share of bootstrap resamples in which it is the cheapest, which is not the probability "
        "of being the best. Optimizers whose search was another's have no row.",
        (("Optimizer", ""), ("N", "ranks"), ("Suite", ""), ("Expected cost", ""),
         ("Ratio", "to the reference"), ("p", "Holm"), ("Leads in", "of resamples")),
        ([_row(ranking, rival, view) for rival in ranking.rivals] for ranking in rankings))


def _row(ranking: Ranking, rival: RankedOptimizer,
         view: tuning_pools.CostView) -> tuple[Value, ...]:
    pool, comparison, decision = rival.pool, rival.comparison, rival.decision
    p = "< 0.001" if decision.adjusted < 0.001 else units.digits(decision.adjusted, 2)
    return (
        *tuning_pools.opening_entries(pool.cell, view),
        words(ranking.group.suite.name),
        view.entry("ert", pool.ert.cost, pool.ert.bound),
        _ratio(rival, ranking.reference.label if ranking.reference else None),
        number(units.NONE if comparison is None or comparison.interval is None
               else "too few trials" if decision.verdict == "cannot be told" else p,
               p_holm=decision.adjusted if comparison else None, star=decision.differs),
        known("first_rank", rival.first, lambda share: units.format_percent(share, 0),
              absent="not judged" if ranking.unlike else "one trial"))


def _ratio(rival: RankedOptimizer, against: str | None) -> Value:
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
    ratio = units.digits(comparison.ratio)
    if rival.unlike:
        return Value(ratio, f"not judged: {rival.unlike}", numbers)
    limits = "one trial, no interval"
    if interval:
        low = units.digits(interval.low)
        limits = (f"{low} to {units.digits(interval.high)}" if math.isfinite(interval.high)
                  else f"{low} or more" if interval.low else "an interval without limits")
    return Value(ratio + (" ★" if rival.decision.differs else ""), limits, numbers)


def level_rankings_table(groups: Sequence[CellGroup], view: tuning_pools.CostView) -> Table:
    """Return Kendall's τ-b of the rankings under each two levels of the target."""
    return grouped_table(
        "level-ranking", "The ranking under other levels of the target",
        "Kendall's τ-b between the orders of expected costs that two levels of the target give: "
        "1 where all pairs stand in the same order, −1 where all are reversed.",
        (("Suite", ""), ("N", "ranks"), ("Levels", ""), ("τ", "Kendall"),
         ("Cheapest", "at the one"), ("Cheapest", "at the other")),
        (_level_rows(group, view) for group in groups
         if not (view.currency in TIME_CURRENCIES and group.unlike)))


def _level_rows(group: CellGroup, view: tuning_pools.CostView) -> Iterator[tuple[Value, ...]]:
    found = group.level_stability(view.currency)
    if found is None:
        return
    for (one, other), tau in found.taus.items():
        winners = [(column, sorted(found.winners[level]))
                   for column, level in (("lowest", one), ("other_lowest", other))]
        yield (
            words(group.suite.name, suite=group.suite.name),
            number(str(group.ranks), ranks=group.ranks),
            words(f"{units.format_percent(one, 0)} and {units.format_percent(other, 0)}",
                  level=one, other_level=other),
            number("all tied" if tau is None else f"{tau:.2f}", kendall_tau=tau),
            *(words(units.listing(who) if who else "none reached it", **{column: ", ".join(who)})
              for column, who in winners))
