"""When tuning pays: bills of R trainings, and from which R on tuning costs no more."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.stats.amortisation import best_plan, break_even
from bench_apts.stats.bootstrap import Interval
from bench_apts.stats.ert_draws import ert_interval
from bench_apts.stats.payoff import break_even_interval, envelope_interval

from .. import units
from ..table import Table, Value, number, words
from .pool import opening, unlike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pool import Pool, View

TRAININGS = (1, 10, 100)
"""Numbers of trainings R that bills are shown for."""


def trainings(pools: Sequence[Pool], view: View) -> Table | None:
    """Least bill C(K, R) over K ≤ n/2, and which K that is; None without trials."""
    if not pools:
        return None
    rows = tuple((*opening(pool.cell, view), *(_bill(pool, view, r) for r in TRAININGS))
                 for pool in pools)
    return Table(
        "bill-trainings", "Bill of R trainings, tuning included",
        "R trainings: C(K, R) at the number K ≤ n/2 of tuning trials where it is least, with its "
        "95 % interval; as the least of noisy bills it is on average too low. Without tuning: "
        "R times the expected cost.",
        (("Optimizer", ""), ("N", ""), *((f"R = {r}", "") for r in TRAININGS)), rows)


def _bill(pool: Pool, view: View, count: int) -> Value:
    column = f"bill_{count}"
    limits = f"{column}_{view.currency}"
    plan = best_plan(pool.lines, count)
    bill = plan.at(count)
    if not math.isfinite(bill):
        if not pool.cell.tune:
            least = count * pool.ert.total
        else:
            # Of a configuration that was found but never hit again, the search is known.
            least = best_plan(pool.lines, 1).first if pool.ert.hits else pool.ert.total
        return view.entry(column, bill, least)
    if pool.cell.tune:
        interval = envelope_interval(pool.tuning, count)
    else:
        once = ert_interval(pool.spent, pool.cost)
        interval = once and Interval(count * once.low, count * once.high)
    detail = [f"K = {plan.draws}"] if pool.cell.tune else []
    if interval:
        detail.append(_limits(interval, view))
    found = view.entry(column, bill, bill, ", ".join(detail))
    return replace(found, numbers={
        **found.numbers, f"draws_{count}": plan.draws if pool.cell.tune else None,
        f"{limits}_low": interval.low if interval else None,
        f"{limits}_high": interval.high if interval else None})


def _limits(interval: Interval, view: View) -> str:
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
                 if mine.cell.tune and not theirs.cell.tune
                 and (mine.ert.total or theirs.ert.total)]  # a rank alone sends no bytes
    if not rows:
        return None
    return Table(
        "bill-break-even", "When tuning pays",
        "Tuning pays: where the bill of R trainings is no more than that without tuning. R* is "
        "the number from which on it stays so.",
        (("Optimizer", ""), ("N", ""), ("Against", ""), ("Verdict", ""),
         ("R*", "95 % interval")), tuple(rows))


def _payoff(mine: Pool, theirs: Pool, view: View) -> tuple[Value, ...]:
    if apart := unlike((mine, theirs), view):
        return (*opening(mine.cell, view), words(theirs.cell.label, against=theirs.cell.label),
                words(f"not judged: trials differ in {apart}", verdict="not judged"),
                number("none", break_even=None, break_even_low=None, break_even_high=None))
    found = break_even(mine.lines, theirs.lines)
    interval = break_even_interval(mine.tuning, (theirs.spent, theirs.cost))
    label, other = mine.cell.label, theirs.cell.label
    if not mine.ert.hits and not theirs.ert.hits:
        verdict = "unknown: neither reached the target"
    elif not mine.ert.hits:
        verdict = f"never: no trial of {label} reached the target"
    elif not theirs.ert.hits:
        verdict = f"{found.verdict}: no trial of {other} reached the target"
    else:
        verdict = found.verdict
    # Where one of them never hit, resampling the same misses would only feign certainty.
    sure = interval if mine.ert.hits and theirs.ert.hits else None
    return (
        *opening(mine.cell, view),
        words(other, against=other),
        words(sentence(label, verdict), verdict=verdict),
        number(span(sure) if sure else "none",
               break_even=found.trainings if math.isfinite(found.trainings) else None,
               break_even_low=sure.low if sure else None,
               break_even_high=sure.high if sure else None))


def sentence(label: str, verdict: str) -> str:
    """Says when tuning pays: ``tuning adam pays from 14 trainings on``."""
    head, colon, reason = verdict.partition(":")
    if head in ("never", "always"):
        return f"tuning {label} {head} pays{colon}{reason}"
    if head == "unknown":
        return f"whether tuning {label} pays is unknown{colon}{reason}"
    return f"tuning {label} pays {verdict}"


def span(interval: Interval) -> str:
    """Formats an interval of R*, for instance ``4 to never``."""
    low, high = (f"{value:.0f}" if math.isfinite(value) else "never" for value in interval)
    return low if low == high else f"{low} to {high}"
