"""What finding a configuration costs: in all currencies, its spread, and over the cheapest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun, headline
from bench_apts.reports.canvas import Figure, heading, panel, scale
from bench_apts.reports.cost_tables import UNCOUNTED, expected, timed
from bench_apts.reports.section_parts import FIGURE_SIZE
from bench_apts.reports.table import Table, Value, name, number, rank_by_cost
from bench_apts.reports.tuning_pools import opening_entries
from bench_apts.stats import expected_cost
from bench_apts.stats.trial_costs import all_known
from bench_apts.stats.verdict import RULE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.tuning_pools import CostView, Pool
    from bench_apts.reports.tuning_scene import TuningScene

_SHARES = (0.1, 0.5, 0.9)
_PERCENTS = 100
_SEVERAL = 2
"""Ranks of a study that may have any number of them."""


def search_cost_table(groups: Sequence[CellGroup], view: CostView) -> Table:
    """Return the expected cost to the target with P(success), in all currencies."""
    others = {currency: row for currency, row in CURRENCIES.items()
              if row.in_costs and currency != view.currency and row.applies(view.device, _SEVERAL)}
    rows = tuple((*opening_entries(cell, view), _success(cell, view),
                  _expected(cell, view.currency, view),
                  *(timed(replace(_expected(cell, currency, view), detail=""),
                          group.crowded and row.is_clock) for currency, row in others.items()))
                 for group in groups for cell in group.cells)
    counted = currency_noun(view.currency, view.device)
    return Table(
        "bill-search", "Expected cost to the target",
        "Expected cost: draw configurations, train each, until one hits; every trial is billed. "
        "In brackets the 95 % interval. Bytes are those that one rank sent.",
        (("Optimizer", ""), ("N", ""), ("Hit", "trials"), (f"Expected cost ({counted})", ""),
         *((row.title, "") for row in others.values())), rows)


def _expected(cell: ReportCell, currency: Currency, view: CostView) -> Value:
    found = expected(cell, currency, view.device, view.level)
    # Another column says how many missed.
    return replace(found, detail="") if found.kind != "number" else found


def _success(cell: ReportCell, view: CostView) -> Value:
    drawn = cell.outcomes(view.level)
    hits, trials = sum(o.hit for o in drawn), len(drawn)
    if not trials:
        return number(units.NONE, hits=0, trials=0)
    limit = None if hits else expected_cost.miss_limit(trials)
    shown = f"P {units.format_percent(hits / trials, 0)}" if limit is None else (
        f"P ≤ {units.format_percent(limit, 0)}")
    return number(f"{hits} of {trials}", shown, hits=hits, trials=trials,
                  success=hits / trials, success_limit=limit)


def search_spread_table(pools: Sequence[Pool], view: CostView) -> Table | None:
    """Return 90 % quantile, sequential bill and best of K of searches; None without trials."""
    if not pools:
        return None
    rows = tuple((*opening_entries(pool.cell, view), *_spread(pool, view)) for pool in pools)
    return Table(
        "bill-spread", "How the bill scatters, and the best of K trials",
        "90 %: what suffices in nine of ten searches. Sequential: trying just these trials in "
        "random order until one hits. Best of K: cost of the best of K of them alone, shown up to "
        "half of the trials, with the chance that one of the K hits; ∞ where some K hold no hit.",
        (("Optimizer", ""), ("N", ""), ("90 %", ""), ("Sequential", ""), ("Best of 2", ""),
         ("Best of 4", ""), ("Best of half", "")),
        rows)


def _spread(pool: Pool, view: CostView) -> list[Value]:
    found, half = pool.ert, len(pool.cost) // 2
    bills = {"restart_q90": expected_cost.restart_quantile(pool.spent, pool.cost, 0.9),
             "sequential": expected_cost.sequential_bill(pool.spent, pool.cost)}
    entries = [view.entry(column, bill, found.bound) for column, bill in bills.items()]
    entries += [_best(pool, view, draws, f"best_of_{draws}") for draws in (2, 4)]
    last = _best(pool, view, half, "best_of_half")
    if half >= 1:
        last = replace(last, detail=f"K = {half}, {last.detail}",
                       numbers={**last.numbers, "half": half})
    return [*entries, last]


def _best(pool: Pool, view: CostView, draws: int, column: str) -> Value:
    cost, chance = f"{column}_{view.currency}", f"{column}_success"
    if not 1 <= draws <= len(pool.cost) // 2:
        return Value(units.NONE, numbers={cost: None, chance: None})
    p = expected_cost.hit_probability(pool.ert.trials, pool.ert.hits, draws)
    least = expected_cost.best_of(pool.cost, draws)
    shown = view.show(least) if math.isfinite(least) else "∞" if p else "not reached"
    return Value(shown, f"P {units.format_percent(p, 0)}", {
        cost: least if math.isfinite(least) else None, chance: p})


def restart_figure(scene: TuningScene) -> Figure | None:
    """Draw the share of searches that a budget suffices for; None where no trial hit."""
    able = [pool for pool in scene.searches if pool.ert.hits]
    if not able:
        return None

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE)
        levels = np.arange(1, _PERCENTS) / _PERCENTS
        ends = []
        for pool in able:
            look = scene.context.looks[pool.cell.label]
            costs = np.quantile(expected_cost.restart_costs(pool.spent, pool.cost), levels,
                                method="inverted_cdf")
            ends += [costs[0], costs[-1]]
            axes.plot(costs, levels, color=look.color, linestyle=look.dashes, marker=look.marker,
                      markevery=(9, 40), markersize=5, markeredgewidth=0, drawstyle="steps-post")
        # A search that costs nothing has no place on a logarithmic axis.
        paid = [end for end in ends if end > 0]
        scale(axes, "x", scene.axis, log=True, limits=(min(paid) / 1.3, max(paid) * 1.3))
        scale(axes, "y", lambda share: units.format_percent(share, 0), limits=(0, 1.02))
        axes.set_xlabel(f"bill of a search until it hits{scene.unit}")
        heading(axes, "share of searches that cost no more")
        return drawing

    tails = [(expected_cost.restart_quantile(pool.spent, pool.cost, 0.9), pool.cell.label)
             for pool in able]
    tail, label = min(tails)
    caption = f"Nine of ten searches cost at most {scene.view.show(tail)} with {label}, the least"
    if len(tails) > 1:
        most, other = max(tails)
        caption += f", and {scene.view.show(most)} with {other}, the most"
    return Figure(
        draw, scene.slug("restarts"), scene.title("how the cost of a search scatters"),
        f"{caption}. A search draws trials, with replacement, until one hits; 20,000 were "
        "simulated, and the line has a point for each percent of them."
        + scene.missed(scene.searches) + scene.shared_searches, scene.legend(able),
        basis=scene.basis, data=_restart_table(scene))


def _restart_table(scene: TuningScene) -> Table:
    return Table(
        "restarts", "Cost of a search until it hits",
        "Bill that this share of searches does not exceed.",
        (("Optimizer", ""), ("Hit", "trials"),
         *((f"{units.format_percent(share, 0)} of searches", "") for share in _SHARES)),
        tuple(_restart_row(scene, pool) for pool in scene.searches))


def _restart_row(scene: TuningScene, pool: Pool) -> tuple[Value, ...]:
    return (
        name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
        number(f"{pool.ert.hits} of {pool.ert.trials}", hits=pool.ert.hits,
               trials=pool.ert.trials),
        *(scene.view.entry(f"restart_q{100 * share:.0f}",
                           expected_cost.restart_quantile(pool.spent, pool.cost, share), 0.0)
          for share in _SHARES))


def compared_currencies(group: CellGroup, device: str) -> list[Currency]:
    """Return the currencies in which costs at one N are compared, the headline's first.

    Bytes need a second rank; CPU-seconds are no cost of a GPU; times do not compare between
    environments, and those of more ranks than cores measure the machine.

    Args:
        group: All optimizers at one N.
        device: ``cpu`` or ``cuda``.
    """
    first = headline(device)
    return [first, *(
        currency for currency, row in CURRENCIES.items()
        if row.in_ratios and row.applies(device, group.ranks) and currency != first
        and not (row.is_clock and group.crowded) and not (row.is_time and group.unlike))]


def _competing_cells(group: CellGroup) -> list[ReportCell]:
    """Return the cells whose search was their own."""
    return [cell for cell in group.cells if cell.draws and not cell.search_owner]


def relative_costs_table(groups: Sequence[CellGroup], device: str) -> Table | None:
    """Return expected costs over those of the headline's cheapest; None without any."""
    rows: list[tuple[Value, ...]] = []
    breaks, first = set(), headline(device)
    compared = [compared_currencies(group, device) for group in groups]
    columns = sorted((one for one in CURRENCIES if any(one in there for there in compared)),
                     key=lambda one: one != first)
    for group, there in zip(groups, compared, strict=True):
        cells = _competing_cells(group)
        ranked = rank_by_cost(cells, first)
        if not ranked or len(cells) < 2:
            continue
        breaks.add(len(rows))
        rows += [(name(cell.label, suite=group.suite.name),
                  number(str(group.ranks), ranks=group.ranks),
                  *(_ratio(cell, ranked[0], one, seen=one in there) for one in columns))
                 for cell in cells]
    if not rows:
        return None
    return Table(
        "currencies", "Expected cost over that of the cheapest, by what is counted",
        f"At each N the cheapest in {currency_noun(first, device)} is 1. Below 1: "
        "cheaper than it in that currency. Samples, FLOPs and seconds are those of all ranks, "
        "bytes those that one rank sends. Tuning is included.",
        (("Optimizer", ""), ("N", "ranks"), *(
            (units.capitalized(currency_noun(one, device)), "ratio")
            for one in columns)),
        tuple(rows), frozenset(breaks))


def _ratio(cell: ReportCell, best: ReportCell, currency: Currency, *, seen: bool) -> Value:
    column = f"ratio_{currency}"
    if not seen:
        return Value(units.NONE, numbers={column: None})
    if not all_known([*cell.outcomes(), *best.outcomes()], currency):
        return Value(UNCOUNTED, numbers={column: None})
    cost, base = cell.ert(currency).cost, best.ert(currency).cost
    if math.isinf(cost):
        return Value("not reached", numbers={column: None}, kind="number missed")
    ratio = cost / base if base else None
    return Value(units.NONE if ratio is None else units.digits(ratio), numbers={column: ratio})


def order_sentence(group: CellGroup, device: str) -> str:
    """Say in a sentence that the cheapest depends on what is counted; "" where it does not.

    Args:
        group: All optimizers at one N.
        device: ``cpu`` or ``cuda``.
    """
    cells = _competing_cells(group)
    ranked = rank_by_cost(cells, headline(device))
    if not ranked:
        return ""
    first: dict[str, list[str]] = {}
    for currency in compared_currencies(group, device):
        there = [cell for cell in cells if all_known(cell.outcomes(), currency)]
        if ranked[0] not in there:
            continue
        best = min(there, key=lambda cell: cell.ert(currency).cost)
        if ranked[0].ert(currency).cost <= RULE.least * best.ert(currency).cost:
            best = ranked[0]
        first.setdefault(best.label, []).append(currency_noun(currency, device))
    if len(first) < 2:
        return ""
    said = [f"{label} in {units.listing(nouns)}" for label, nouns in first.items()]
    return f"Which is cheapest depends on what is counted: {'; '.join(said)}."
