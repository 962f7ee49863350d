"""Best of K tuning trials against what they cost: a figure for one N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.core import units
from bench_apts.stats.bootstrap import Interval, best_of_intervals
from bench_apts.stats.costs import hit_bracket, metric_values
from bench_apts.stats.tuning import best_of, hit_probability

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..drawing.style import INK
from ..table import Table, Value, name, number
from .scene import SIZE, finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench_apts.core.records import TrialRecord

    from ..drawing.style import Look
    from .pool import Pool
    from .scene import Scene


_POINTS = 12
"""Numbers of trials K that are shown at most."""


class Best(NamedTuple):
    """Best of K trials of one optimizer, for several K from 1 on.

    Attributes:
        draws: The numbers of trials K.
        bills: K times the mean bill of a trial.
        values: Expected best validation metric; infinitely bad where some K have none.
        limits: Its 95 % intervals; empty for fewer than two trials.
    """

    draws: list[int]
    bills: list[float]
    values: list[float]
    limits: list[Interval]


def best(pool: Pool, level: float) -> Best:
    """Works out the best of K trials, K ≤ n/2; of a single one where nothing is tuned.

    Args:
        pool: Trials; what they saw after the end of their bill, at the hit, does not count.
        level: Level of the target.
    """
    sign = -1.0 if pool.cell.suite.target.direction == "max" else 1.0
    costs = [_least(record, sign, level) for record in pool.cell.draws]
    most = max(1, len(costs) // 2) if pool.cell.tune else 1
    draws = [*range(1, most + 1)] if most <= _POINTS else np.unique(
        np.geomspace(1, most, _POINTS).round().astype(int)).tolist()
    mean = math.fsum(pool.spent) / len(pool.spent)
    limits = best_of_intervals(costs, most)
    return Best(
        draws, [k * mean for k in draws], [sign * best_of(costs, k) for k in draws],
        [Interval(*sorted((sign * limits[k - 1].low, sign * limits[k - 1].high)))
         for k in draws] if limits else [])


def best_of_k(scene: Scene) -> Figure | None:
    """Draws the best validation metric of K trials; None where nothing was tuned."""
    metric = scene.context.suite.target.metric
    threshold = scene.context.suite.target.threshold(scene.view.level)
    found = [(pool, best(pool, scene.view.level)) for pool in scene.searches]
    drawn = [(pool, one) for pool, one in found if any(map(math.isfinite, one.values))]
    if not any(pool.cell.tune for pool, _ in drawn):
        return None
    drawing, axes = panel(*SIZE)
    axes.axhline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    for pool, one in drawn:
        _draw(axes, one, scene.context.looks[pool.cell.label])
    # Bands may reach far down; the lines decide what is shown.
    values = [v for _, one in drawn for v in (*one.values, threshold) if math.isfinite(v)]
    room = 0.12 * ((max(values) - min(values)) or 1.0)
    scale(axes, "y", lambda value: units.metric(
        scene.context.suite.target, metric, value),
          limits=(min(values) - room, max(values) + room))
    bills = [bill for _, one in drawn for bill in one.bills]
    scale(axes, "x", scene.axis, log=True, limits=(min(bills) / 1.3, max(bills) * 1.3))
    axes.set_xlabel(f"bill of K trials{scene.unit}")
    heading(axes, f"best validation {units.metric_title(metric)} of K trials, expected")
    return finish(
        drawing, scene.slug("best-of-k"), scene.title("best of K trials against their bill"),
        f"{_finding(scene, drawn)} Marks: K up to half of the trials, at most {_POINTS} of them; "
        "a single one: without tuning. Bands and bars: 95 % of bootstrap resamples, which covers "
        "less of the truth. Dashed: target." + scene.followers,
        scene.legend(pool for pool, _ in drawn), basis=scene.basis,
        data=_table(scene, found))


def _least(record: TrialRecord, sign: float, level: float) -> float:
    """Returns the best metric that a trial's bill paid for, less being better; ∞ for none."""
    values = metric_values(record)
    found = hit_bracket(record, level, values)
    return min((sign * value for value in values[:found[1] + 1 if found else None]
                if not math.isnan(value)), default=math.inf)


def _draw(axes: Axes, one: Best, look: Look) -> None:
    single = len(one.bills) == 1
    axes.plot(one.bills, one.values, color=look.color, linestyle=look.dashes, marker=look.marker,
              markersize=7 if single else 3.5, markeredgewidth=0, zorder=3)
    if not one.limits:
        return
    low, high = zip(*one.limits, strict=True)
    if single:
        axes.plot(one.bills * 2, [*low, *high], color=look.color, linewidth=2, alpha=0.6,
                  solid_capstyle="butt")
    else:
        axes.fill_between(one.bills, low, high, color=look.color, alpha=0.13, linewidth=0)


def _finding(scene: Scene, drawn: Sequence[tuple[Pool, Best]]) -> str:
    reached = [(bill, draws, pool.cell.label) for pool, one in drawn if pool.cell.tune
               for draws, bill, value in zip(one.draws, one.bills, one.values, strict=True)
               if pool.cell.suite.target.reached(value, scene.view.level)]
    if not reached:
        return "On average not even the best of half of the trials reaches the target."
    bill, draws, label = min(reached)
    text = ("Of what was tuned, the best of K trials is at the target, on average, for the least "
            f"with {label}: K = {draws}, {scene.view.show(bill)}")
    free = [(one.bills[0], pool.cell.label) for pool, one in drawn if not pool.cell.tune
            and pool.cell.suite.target.reached(one.values[0], scene.view.level)]
    if not free:
        return f"{text}."
    once, other = min(free)
    return f"{text}; without tuning, {other} is there for {scene.view.show(once)}."


def _table(scene: Scene, found: Sequence[tuple[Pool, Best]]) -> Table:
    metric = units.metric_title(scene.context.suite.target.metric)
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for pool, one in found:
        breaks.add(len(rows))
        rows += [_row(scene, pool, one, place) for place in range(len(one.draws))]
    return Table(
        "best-of-k", "Best of K trials",
        f"Best: expected best validation {metric} of K trials with its 95 % interval. P: chance "
        "that one of the K hits. Training: cost to the target of the best of them alone; ∞ where "
        "some K hold no hit.",
        (("Optimizer", ""), ("K", "trials"), ("Bill", "of all K"), (f"Best {metric}", "expected"),
         ("P", "of a hit"), ("Training", "with the best")), tuple(rows), frozenset(breaks))


def _row(scene: Scene, pool: Pool, one: Best, place: int) -> tuple[Value, ...]:
    view, target = scene.view, scene.context.suite.target
    metric = target.metric
    draws, bill, value = one.draws[place], one.bills[place], one.values[place]
    low, high = one.limits[place] if one.limits else (math.nan, math.nan)
    least, chance = best_of(pool.cost, draws), hit_probability(
        pool.ert.trials, pool.ert.hits, draws)
    limits = [units.metric(target, metric, each) if math.isfinite(each) else "none"
              for each in (low, high)]
    return (
        name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
        number(str(draws), draws=draws),
        number(view.show(bill), "", **{f"bill_{view.currency}": bill}),
        number(units.metric(target, metric, value) if math.isfinite(value) else "none",
               units.between(*limits) if one.limits else "one trial, no interval",
               best=finite(value), best_low=finite(low), best_high=finite(high)),
        number(units.percent(chance, 0), success=chance),
        number(view.show(least) if math.isfinite(least) else "∞" if chance else "not reached",
               "", **{f"best_cost_{view.currency}": finite(least)}))
