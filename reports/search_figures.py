"""Figures of searches at one N: the best of K trials, and what other tuning policies cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench_apts.core import units
from bench_apts.reports.canvas import Figure, heading, panel, scale
from bench_apts.reports.figure_style import INK, Look
from bench_apts.reports.replayed_searches import replay_table
from bench_apts.reports.section_parts import FIGURE_SIZE
from bench_apts.reports.table import Table, Value, finite, name, number
from bench_apts.stats.expected_cost import best_of, hit_probability
from bench_apts.stats.intervals import Interval, best_of_intervals
from bench_apts.stats.trial_costs import hit_bracket, metric_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.replayed_searches import ReplayedPolicy
    from bench_apts.reports.tuning_pools import Pool
    from bench_apts.reports.tuning_scene import TuningScene

_POINTS = 12
"""Numbers of trials K that are shown at most."""

_ALL = Look("", INK, "", "D", (0, (1, 1)))
"""How a policy that tries one configuration of each optimizer looks."""


class BestOfTrials(NamedTuple):
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


def best_of_trials(pool: Pool, level: float) -> BestOfTrials:
    """Work out the best of K trials, K ≤ n/2; of a single one where nothing is tuned.

    Args:
        pool: Trials; evaluations after the end of their bill, at the hit, do not count.
        level: Level of the target.
    """
    sign = -1.0 if pool.cell.suite.target.direction == "max" else 1.0
    costs = [_least(record, sign, level) for record in pool.cell.draws]
    most = max(1, len(costs) // 2) if pool.cell.tune else 1
    draws = [*range(1, most + 1)] if most <= _POINTS else np.unique(
        np.geomspace(1, most, _POINTS).round().astype(int)).tolist()
    mean = math.fsum(pool.spent) / len(pool.spent)
    limits = best_of_intervals(costs, most)
    return BestOfTrials(
        draws, [k * mean for k in draws], [sign * best_of(costs, k) for k in draws],
        [Interval(*sorted((sign * limits[k - 1].low, sign * limits[k - 1].high)))
         for k in draws] if limits else [])


def best_of_k_figure(scene: TuningScene) -> Figure | None:
    """Draw the best validation metric of K trials; None where nothing was tuned."""
    metric = scene.context.suite.target.metric
    threshold = scene.context.suite.target.threshold(scene.view.level)
    found = [(pool, best_of_trials(pool, scene.view.level)) for pool in scene.searches]
    drawn = [(pool, one) for pool, one in found if any(map(math.isfinite, one.values))]
    if not any(pool.cell.tune for pool, _ in drawn):
        return None

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE)
        axes.axhline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
        for pool, one in drawn:
            _draw_best(axes, one, scene.context.looks[pool.cell.label])
        # Bands may reach far down; the lines decide what is shown.
        values = [v for _, one in drawn for v in (*one.values, threshold) if math.isfinite(v)]
        room = 0.12 * ((max(values) - min(values)) or 1.0)
        target = scene.context.suite.target
        scale(axes, "y", lambda value: units.format_metric(target, metric, value),
              limits=(min(values) - room, max(values) + room))
        bills = [bill for _, one in drawn for bill in one.bills]
        scale(axes, "x", scene.axis, log=True, limits=(min(bills) / 1.3, max(bills) * 1.3))
        axes.set_xlabel(f"bill of K trials{scene.unit}")
        heading(axes, f"best validation {units.metric_title(metric)} of K trials, expected")
        return drawing

    return Figure(
        draw, scene.slug("best-of-k"), scene.title("best of K trials against their bill"),
        f"{_best_finding(scene, drawn)} Marks: K up to half of the trials, at most {_POINTS} of "
        "them; a single one: without tuning. Bands and bars: 95 % of bootstrap resamples, which "
        "covers less of the truth. Dashed: target." + scene.shared_searches,
        scene.legend(pool for pool, _ in drawn), basis=scene.basis,
        data=_best_table(scene, found))


def _least(record: TrialRecord, sign: float, level: float) -> float:
    """Return the best metric that a trial's bill paid for, less being better; ∞ for none."""
    values = metric_values(record)
    found = hit_bracket(record, level, values)
    return min((sign * value for value in values[:found[1] + 1 if found else None]
                if not math.isnan(value)), default=math.inf)


def _draw_best(axes: Axes, one: BestOfTrials, look: Look) -> None:
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


def _best_finding(scene: TuningScene, drawn: Sequence[tuple[Pool, BestOfTrials]]) -> str:
    reached = [(bill, draws, pool.cell.label) for pool, one in drawn if pool.cell.tune
               for draws, bill, value in zip(one.draws, one.bills, one.values, strict=True)
               if pool.cell.suite.target.reached(value, scene.view.level)]
    if not reached:
        return "On average not even the best of half of the trials reaches the target."
    bill, draws, label = min(reached)
    text = (f"Of the tuned optimizers, {label} needs the least for the best of K trials to reach "
            f"the target on average: K = {draws}, {scene.view.show(bill)}")
    free = [(one.bills[0], pool.cell.label) for pool, one in drawn if not pool.cell.tune
            and pool.cell.suite.target.reached(one.values[0], scene.view.level)]
    if not free:
        return f"{text}."
    once, other = min(free)
    return f"{text}; {other} reaches it without tuning for {scene.view.show(once)}."


def _best_table(scene: TuningScene, found: Sequence[tuple[Pool, BestOfTrials]]) -> Table:
    metric = units.metric_title(scene.context.suite.target.metric)
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for pool, one in found:
        breaks.add(len(rows))
        rows += [_best_row(scene, pool, one, place) for place in range(len(one.draws))]
    return Table(
        "best-of-k", "Best of K trials",
        f"Best: expected best validation {metric} of K trials with its 95 % interval. P: chance "
        "that one of the K hits. Training: cost to the target of the best of them alone; ∞ where "
        "some K hold no hit.",
        (("Optimizer", ""), ("K", "trials"), ("Bill", "of all K"), (f"Best {metric}", "expected"),
         ("P", "of a hit"), ("Training", "with the best")), tuple(rows), frozenset(breaks))


def _best_row(scene: TuningScene, pool: Pool, one: BestOfTrials, place: int) -> tuple[Value, ...]:
    view, target = scene.view, scene.context.suite.target
    metric = target.metric
    draws, bill, value = one.draws[place], one.bills[place], one.values[place]
    low, high = one.limits[place] if one.limits else (math.nan, math.nan)
    least, chance = best_of(pool.cost, draws), hit_probability(
        pool.ert.trials, pool.ert.hits, draws)
    limits = [units.format_metric(target, metric, each) if math.isfinite(each) else "none"
              for each in (low, high)]
    return (
        name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
        number(str(draws), draws=draws),
        number(view.show(bill), "", **{f"bill_{view.currency}": bill}),
        number(units.format_metric(target, metric, value) if math.isfinite(value) else "none",
               units.between(*limits) if one.limits else "one trial, no interval",
               best=finite(value), best_low=finite(low), best_high=finite(high)),
        number(units.format_percent(chance, 0), success=chance),
        number(view.show(least) if math.isfinite(least) else "∞" if chance else "not reached",
               "", **{f"best_cost_{view.currency}": finite(least)}))


def replay_figures(scene: TuningScene, policies: Sequence[ReplayedPolicy]) -> list[Figure]:
    """Draw the mean cost of each policy, and its hits and false prunings.

    Args:
        scene: One N.
        policies: Those that were replayed there.
    """
    if not policies:
        return []
    numbers = replay_table(policies, scene.view)
    looks = {played.cell.label: scene.context.looks[played.cell.label]
             for played in policies if played.cell}
    if any(played.cell is None for played in policies):
        looks["all optimizers"] = _ALL
    drawn: list[Figure] = []
    costly = [played.found.cost for played in policies if math.isfinite(played.found.cost)]
    if costly:
        def draw_costs() -> Drawing:
            drawing, axes = _policy_rows(policies)
            for played, height, look in _places(scene, policies):
                if math.isfinite(played.found.cost):
                    _mark(axes, played.found.cost, height, look)
            scale(axes, "x", scene.axis, log=True, ticks=4,
                  limits=(min(costly) / 1.3, max(costly) * 1.3))
            heading(axes, f"mean cost until the first hit{scene.unit}")
            return drawing

        drawn.append(Figure(
            draw_costs, scene.slug("policies"), scene.title("what tuning policies cost"),
            f"{_cheapest(scene, policies)} Replayed over 500 orders of the recorded trials, each "
            f"until its first hit; the mean over the orders that hit.{scene.shared_searches}",
            looks, basis=scene.basis, data=numbers))

    def draw_hits() -> Drawing:
        drawing, axes = _policy_rows(policies)
        for played, height, look in _places(scene, policies):
            _mark(axes, played.found.hit_rate, height, look, clip_on=False)
            if math.isfinite(played.found.falsely_pruned):
                _mark(axes, played.found.falsely_pruned, height, look, color="none", clip_on=False,
                      markeredgecolor=look.color, markeredgewidth=1.2)
        scale(axes, "x", lambda share: units.format_percent(share, 0), limits=(0, 1))
        heading(axes, "orders that hit (filled), false prunings (open)")
        return drawing

    drawn.append(Figure(
        draw_hits, scene.slug("policies-hits"), scene.title("how often tuning policies hit"),
        f"{_falsely(policies)} Filled: orders that hit. Open: of the trials that were pruned, "
        "those that would have hit.", looks, basis=scene.basis, data=numbers))
    return drawn


def _policy_rows(policies: Sequence[ReplayedPolicy]) -> tuple[Drawing, Axes]:
    """Return axes with a row for each policy."""
    names = list(dict.fromkeys(played.title for played in policies))
    drawing, axes = panel(FIGURE_SIZE[0], 0.36 * len(names) + 0.85, left=1.75, top=0.34, right=0.3)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    return drawing, axes


def _places(scene: TuningScene, policies: Sequence[ReplayedPolicy]
            ) -> list[tuple[ReplayedPolicy, float, Look]]:
    """Return each policy with its height and look; optimizers stand above one another."""
    names = list(dict.fromkeys(played.title for played in policies))
    labels = list(dict.fromkeys(played.cell.label for played in policies if played.cell))
    step = min(0.16, 0.7 / len(labels)) if labels else 0.0
    found = []
    for played in policies:
        height, look = float(names.index(played.title)), _ALL
        if played.cell:
            look = scene.context.looks[played.cell.label]
            here = [p.cell.label for p in policies if p.policy == played.policy and p.cell]
            height += step * (here.index(played.cell.label) - (len(here) - 1) / 2)
        found.append((played, height, look))
    return found


def _mark(axes: Axes, at: float, height: float, look: Look, **style: Any) -> None:
    axes.plot([at], [height], marker=look.marker, markersize=6.5,
              **{"color": look.color, "markeredgewidth": 0, **style})


def _cheapest(scene: TuningScene, policies: Sequence[ReplayedPolicy]) -> str:
    best = min(policies, key=lambda played: played.found.cost)
    text = f"Cheapest: {best.title}{_of(best)}, {scene.view.show(best.found.cost)}"
    plain = next((played for played in policies if played.cell is best.cell
                  and played.policy == "sequential"), None)
    if plain and plain is not best and math.isfinite(plain.found.cost):
        text += f"; one trial after another, {scene.view.show(plain.found.cost)}"
    return f"{text}."


def _falsely(policies: Sequence[ReplayedPolicy]) -> str:
    pruning = [played for played in policies if played.found.pruned]
    lost = min(policies, key=lambda played: played.found.hit_rate)
    text = (f"Fewest orders hit by {lost.title}{_of(lost)}: "
            f"{units.format_percent(lost.found.hit_rate)}." if lost.found.hit_rate < 1 else
            "All policies hit in every order.")
    if pruning:
        worst = max(pruning, key=lambda played: played.found.falsely_pruned)
        text += (f" Most false prunings: {worst.title}{_of(worst)}, "
                 f"{units.format_percent(worst.found.falsely_pruned)} of what it prunes."
                 if worst.found.falsely_pruned else " None of what was pruned would have hit.")
    return text


def _of(played: ReplayedPolicy) -> str:
    return f" of {played.cell.label}'s trials" if played.cell else ""
