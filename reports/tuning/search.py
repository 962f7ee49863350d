"""What finding a configuration costs: expected cost in all currencies, its scatter, best of K."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats.restart import restart_quantile
from bench_apts.stats.tuning import best_of, hit_probability, miss_limit, sequential_bill

from ..cost_tables import expected, timed
from ..table import Table, Value, number
from .pool import opening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.currency import Currency

    from ..cells import Cell, Group
    from .pool import Pool, View

_BESIDE: dict[Currency, str] = {
    "samples": "Samples", "flops": "FLOPs", "wire_bytes": "Bytes",
    "gradient_evaluations": "Gradient evaluations", "cpu_s": "CPU time", "wall_s": "Wall time"}


def search(groups: Sequence[Group], view: View) -> Table:
    """Expected cost to the target with P(success), in all currencies."""
    others: list[Currency] = [currency for currency in _BESIDE if currency != view.currency]
    rows = tuple((*opening(cell, view), _success(cell, view),
                  _expected(cell, view.currency, view),
                  *(timed(replace(_expected(cell, currency, view), detail=""),
                          group.crowded and currency == "wall_s") for currency in others))
                 for group in groups for cell in group.cells)
    counted = units.named(view.currency, view.device)
    return Table(
        "bill-search", "Expected cost to the target",
        "Expected cost: draw configurations, train each, until one hits; every trial is billed. "
        "In brackets the 95 % interval. Bytes are those that one rank sent.",
        (("Optimizer", ""), ("N", ""), ("Hit", "trials"), 
         (f"Expected cost ({counted})", ""), *((_BESIDE[currency], "") for currency in others)),
        rows)


def _expected(cell: Cell, currency: Currency, view: View) -> Value:
    found = expected(cell, currency, view.device, view.level)
    # How many missed stands beside already.
    return replace(found, detail="") if found.kind != "number" else found


def _success(cell: Cell, view: View) -> Value:
    drawn = cell.outcomes(view.level)
    hits, trials = sum(o.hit for o in drawn), len(drawn)
    if not trials:
        return number(units.NONE, hits=0, trials=0)
    limit = None if hits else miss_limit(trials)
    shown = f"P {units.percent(hits / trials, 0)}" if limit is None else (
        f"P ≤ {units.percent(limit, 0)}")
    return number(f"{hits} of {trials}", shown, hits=hits, trials=trials,
                  success=hits / trials, success_limit=limit)


def spread(pools: Sequence[Pool], view: View) -> Table | None:
    """Quantile of the restart cost, sequential bill and best of K; None without trials."""
    if not pools:
        return None
    rows = tuple((*opening(pool.cell, view), *_spread(pool, view)) for pool in pools)
    return Table(
        "bill-spread", "How the bill scatters, and the best of K trials",
        "90 %: what suffices in nine of ten searches. Sequential: trying just these trials in "
        "random order until one hits. Best of K: cost of the best of K of them alone, shown up to "
        "half of the trials, with the chance that one of the K hits; ∞ where some K hold no hit.",
        (("Optimizer", ""), ("N", ""), ("90 %", ""), ("Sequential", ""), ("Best of 2", ""),
         ("Best of 4", ""), ("Best of half", "")),
        rows)


def _spread(pool: Pool, view: View) -> list[Value]:
    found, half = pool.ert, len(pool.cost) // 2
    bills = {"restart_q90": restart_quantile(pool.spent, pool.cost, 0.9),
             "sequential": sequential_bill(pool.spent, pool.cost)}
    entries = [view.entry(column, bill, found.bound) for column, bill in bills.items()]
    entries += [_best(pool, view, draws, f"best_of_{draws}") for draws in (2, 4)]
    last = _best(pool, view, half, "best_of_half")
    if half >= 1:
        last = replace(last, detail=f"K = {half}, {last.detail}",
                       numbers={**last.numbers, "half": half})
    return [*entries, last]


def _best(pool: Pool, view: View, draws: int, column: str) -> Value:
    cost, chance = f"{column}_{view.currency}", f"{column}_success"
    if not 1 <= draws <= len(pool.cost) // 2:
        return Value(units.NONE, numbers={cost: None, chance: None})
    p = hit_probability(pool.ert.trials, pool.ert.hits, draws)
    least = best_of(pool.cost, draws)
    shown = view.show(least) if math.isfinite(least) else "∞" if p else "not reached"
    return Value(shown, f"P {units.percent(p, 0)}", {
        cost: least if math.isfinite(least) else None, chance: p})
