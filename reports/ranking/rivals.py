"""Each optimizer's expected cost against a reference's: ratios, Holm's correction, P(rank 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.stats import origins
from bench_apts.stats.comparison import Bill, Comparison, compare, first_ranks
from bench_apts.stats.verdict import Decision, decide

from ..tuning.pool import View, pool, unlike

_UNJUDGED = Decision(1.0, "cannot be told")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cells import Cell, Group
    from ..tuning.pool import Pool


@dataclass(frozen=True)
class Rival:
    """One optimizer at one N beside the reference.

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
        reference: apts, or the cheapest where no apts reached the target; None if nobody did.
        rivals: The cheapest first, without those whose search was another's: they would be the
            same rival again.
        unlike: In what the environments of all their trials differ, so that no optimizer is called
            the first; or "".
    """

    group: Group
    reference: Cell | None
    rivals: tuple[Rival, ...]
    unlike: str = ""

    @property
    def leader(self) -> Rival | None:
        """Who is first most often; None where that is unknown or nobody hit."""
        known = [rival for rival in self.rivals if rival.first > 0]
        return max(known, key=lambda rival: rival.first, default=None)


def ranked(group: Group, view: View) -> Ranking:
    """Compares all optimizers at one N.

    Args:
        group: Suite and N.
        view: Currency, level and device.
    """
    every = [found for cell in group.cells if (found := pool(cell, view))]
    pools = sorted((found for found in every if not found.cell.leader and found.ert.total),
                   key=lambda found: (found.ert.cost, -found.ert.hits))
    hit = [found for found in pools if found.ert.hits]
    base = next((found for found in hit if found.cell.optimizer == "apts"),
                hit[0] if hit else None)
    unlike_all = unlike(pools, view)
    shares = (_first_ranks(pools) if not unlike_all
              else dict.fromkeys((found.cell.label for found in pools), math.nan))
    judged: dict[str, tuple[Comparison, Decision]] = {}
    apart: dict[str, str] = {}
    if base:
        apart = {found.cell.label: unlike((found, base), view) for found in pools
                 if found is not base}
        judged = {found.cell.label: (
            Comparison(found.ert.cost / base.ert.cost if base.ert.cost else math.nan, None, 1.0,
                       1.0), _UNJUDGED) for found in pools if apart.get(found.cell.label)}
        others = [found for found in pools if found is not base
                  and not apart[found.cell.label]]
        family = [compare(Bill(found.spent, found.cost), Bill(base.spent, base.cost),
                          paired=_pairs(found, base)) for found in others]
        noise = group.noise if view.currency in origins.TIMES else None
        decisions = decide([
            each.evidence(noise.of_mean(min(len(found.spent), len(base.spent))) if noise else 1.0)
            for found, each in zip(others, family, strict=True)])
        judged |= {found.cell.label: (each, decision) for found, each, decision in zip(
            others, family, decisions, strict=True)}
    rivals = []
    for found in pools:
        comparison, decision = judged.get(found.cell.label, (None, _UNJUDGED))
        rivals.append(Rival(found, comparison, decision,
                            base is not None and _pairs(found, base), shares[found.cell.label],
                            apart.get(found.cell.label, "")))
    return Ranking(group, base.cell if base else None, tuple(rivals), unlike_all)


def _first_ranks(pools: Sequence[Pool]) -> dict[str, float]:
    """Share of resamples that each leads in; NaN for those with a single trial."""
    able = [found for found in pools if len(found.spent) > 1]
    if not able:
        return dict.fromkeys((found.cell.label for found in pools), math.nan)
    paired = all(_pairs(found, able[0]) for found in able)
    shares = first_ranks({found.cell.label: Bill(found.spent, found.cost) for found in able},
                         paired=paired)
    return {found.cell.label: shares.get(found.cell.label, math.nan) for found in pools}


def _pairs(one: Pool, other: Pool) -> bool:
    """Whether the k-th trials of both had the same weights and data."""
    return ([record.trial.seeds for record in one.cell.draws]
            == [record.trial.seeds for record in other.cell.draws])
