"""Bills of R trainings, tuning included, and from which R on tuning costs no more."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.core import units
from bench_apts.reports.canvas import Figure, heading, panel, scale
from bench_apts.reports.section_parts import FIGURE_SIZE
from bench_apts.reports.table import Table, Value, name, number, words
from bench_apts.reports.tuning_pools import TRAININGS, opening_entries, unlike_environments
from bench_apts.reports.tuning_scene import untuned_reference
from bench_apts.stats.amortisation import break_even

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.tuning_pools import CostView, Pool
    from bench_apts.reports.tuning_scene import TuningScene
    from bench_apts.stats.amortisation import BreakEven
    from bench_apts.stats.intervals import Interval

MANY = 10
"""Trainings over which it is asked who is cheapest once tuning is paid."""

_POINTS = 40
_FARTHEST = 10_000  # trainings beyond which no crossing is drawn


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


def trainings_table(pools: Sequence[Pool], view: CostView) -> Table | None:
    """Return the bills of R trainings with their intervals; None without trials."""
    if not pools:
        return None
    return Table(
        "bill-trainings", "Bill of R trainings, tuning included",
        "R trainings of a tuned optimizer: all its tuning trials, the first training among them, "
        "and R − 1 times the expected cost of the frozen configuration on fresh seeds. Without "
        "tuning: R times the expected cost. What tuning cost is a fact; the rest has its 95 % "
        "interval, and stands alone where that is too wide for a number (docs/statistics.md).",
        (("Optimizer", ""), ("N", ""), *((f"R = {r}", "") for r in TRAININGS)),
        tuple((*opening_entries(pool.cell, view), *(_bill(pool, view, r) for r in TRAININGS))
              for pool in pools))


def _bill(pool: Pool, view: CostView, count: int) -> Value:
    """Return a table's entry of the bill of R trainings.

    It is a number where it is a fact or its interval is worth one, else only the interval.
    """
    column, interval = f"bill_{count}", None
    if pool.cell.tune and pool.ert.hits and count == 1:
        # A fact of the record, whether or not anything was rerun.
        shown = view.entry(column, pool.ert.total, 0.0, "as spent")
    elif pool.bill is None:
        shown = (Value("not rerun", numbers={f"{column}_{view.currency}": None}) if pool.ert.hits
                 else view.entry(column, math.inf, pool.ert.bound))
    elif not pool.bill.at(count):  # a rank alone sends no bytes
        shown = view.entry(column, 0.0, 0.0)
    else:
        interval = pool.bill.interval(count)
        assert interval
        span = interval_words(interval, view)
        shown = (view.entry(column, bill := pool.bill.at(count), bill, span)
                 if pool.bill.worth_a_number(count) else view.missing(column, span))
    return replace(shown, numbers={
        **shown.numbers, f"{column}_{view.currency}_low": interval.low if interval else None,
        f"{column}_{view.currency}_high": interval.high if interval else None})


def interval_words(interval: Interval, view: CostView) -> str:
    """Format the interval of a cost, for instance ``2.00 to 3.00 core-s``."""
    if math.isinf(interval.high):
        return f"{view.show(interval.low)} or more"
    return units.between(view.show(interval.low), view.show(interval.high))


def payoff_table(pools: Sequence[Pool], view: CostView) -> Table | None:
    """Return R* of each tuned optimizer against each untuned; None without such a pair."""
    rows = []
    for _, there in itertools.groupby(pools, lambda pool: pool.cell.ranks):
        here = list(there)
        rows += [_payoff(mine, theirs, view)
                 for mine, theirs in itertools.product(here, here)
                 if mine.cell.tune and not theirs.cell.tune and not mine.cell.search_owner
                 and (mine.ert.total or theirs.ert.total)]  # a rank alone sends no bytes
    if not rows:
        return None
    return Table(
        "bill-break-even", "When tuning pays",
        "R*: the least number of trainings for which the bill with tuning is no more than that "
        "without. It is a number where its 95 % interval is narrow enough (docs/statistics.md).",
        (("Optimizer", ""), ("N", ""), ("Against", ""), ("Verdict", ""),
         ("R*", "95 % interval")), tuple(rows))


def _payoff(mine: Pool, theirs: Pool, view: CostView) -> tuple[Value, ...]:
    label, other = mine.cell.label, theirs.cell.label
    verdict, found = "not known", None
    unrun = [pool.cell.label for pool in (mine, theirs) if pool.bill is None]
    if apart := unlike_environments((mine, theirs), view):
        said, verdict = f"not judged: trials differ in {apart}", "not judged"
    elif not mine.ert.hits:
        said = f"not known: no tuning trial of {label} reached the target"
    elif unrun:
        said = f"not known: {unrun[0]} was not run on fresh seeds"
    else:
        assert mine.bill
        assert theirs.bill
        found = break_even(mine.bill, theirs.bill)
        said, verdict = payoff_sentence(label, found), payoff_words(found)
    shown, known = "none", None
    if found:
        shown = payoff_span(found.interval)
        if found.is_known:
            shown, known = f"{found.trainings:.0f} ({shown})", found.trainings
    return (
        *opening_entries(mine.cell, view), words(other, against=other),
        words(said, verdict=verdict),
        number(shown, break_even=known, break_even_low=found.interval.low if found else None,
               break_even_high=found.interval.high if found else None))


def payoff_words(found: BreakEven) -> str:
    """Say in words from how many trainings on tuning pays, as far as the trials show it."""
    if found.never:
        return "never"
    if found.is_known:
        return f"from {found.trainings:.0f} training{'s' * (found.trainings != 1)} on"
    return f"not told: 95 % interval {payoff_span(found.interval)}"


def payoff_sentence(label: str, found: BreakEven) -> str:
    """Say when tuning pays: ``tuning adam pays from 14 trainings on (10 to 22)``."""
    if found.never:
        return f"tuning {label} never pays"
    if found.is_known:
        return (f"tuning {label} pays {payoff_words(found)} (95 % interval: "
                f"{payoff_span(found.interval)})")
    if math.isinf(found.interval.low):
        return (f"no break-even for tuning {label} within the data, of "
                f"{units.plural(found.seeds, 'fresh seed')}: too few to rule one out")
    said = (f"no break-even for tuning {label} within the data"
            if math.isinf(found.interval.high)
            else f"the break-even for tuning {label} is not determined")
    return f"{said} (95 % interval: {payoff_span(found.interval)})"


def payoff_span(interval: Interval) -> str:
    """Format an interval of R*: ``4 to 9 trainings``, or ``from 4 trainings on``."""
    low, high = interval
    if math.isinf(low):
        return "none"
    if math.isinf(high):
        return f"from {units.plural(round(low), 'training')} on"
    if low == high:
        return units.plural(round(low), "training")
    return f"{low:.0f} to {high:.0f} trainings"


def amortised_figure(scene: TuningScene) -> Figure | None:
    """Draw the bill of R trainings over R; None where no tuned optimizer hit and was rerun."""
    able = [pool for pool in scene.searches
            if pool.ert.hits and pool.bill and math.isfinite(pool.bill.again)]
    if not any(pool.cell.tune for pool in able):
        return None
    found = [] if unlike_environments(able, scene.view) else [
        each for each in crossings(able, [pool for pool in able if not pool.cell.tune])
        if each.found.is_known and 1 < each.found.trainings <= _FARTHEST]
    last = max([100.0, *(2.5 * each.found.trainings for each in found)])
    grid = np.unique(np.geomspace(1, last, _POINTS).round().astype(int)).tolist()

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE)
        values = [value for pool in able for value in _draw(axes, scene, pool, grid)]
        for each in found:
            assert each.free.bill
            axes.plot([each.found.trainings], [each.free.bill.again], marker="o", markersize=9,
                      color="none", markeredgewidth=1.6, zorder=4,
                      markeredgecolor=scene.context.looks[each.tuned.cell.label].color)
        scale(axes, "x", units.format_count, log=True, limits=(1 / 1.15, last * 1.15))
        scale(axes, "y", scene.axis, log=True, limits=(min(values) / 1.5, max(values) * 1.5))
        axes.set_xlabel("trainings R")
        heading(axes, f"bill of R trainings, divided by R{scene.unit}")
        return drawing

    return Figure(
        draw, scene.slug("trainings"), scene.title("bill of R trainings, tuning included"),
        f"{_pays_from(scene.searches, scene.view, untuned_reference(scene.pools))} All tuning "
        "trials and R − 1 trainings on fresh seeds; level lines: without tuning. Bands: 95 % "
        "intervals. Rings: R*, where the trials tell it."
        f"{scene.missed(scene.searches)}{scene.shared_searches}",
        scene.legend(able), basis=scene.basis, data=_bills_table(scene, last))


def _draw(axes: Axes, scene: TuningScene, pool: Pool, grid: Sequence[int]) -> list[float]:
    """Draw one optimizer's bills with their intervals; return its points."""
    bill = pool.bill
    assert bill
    look = scene.context.looks[pool.cell.label]
    points = [bill.at(count) / count for count in grid]
    axes.plot(grid, points, color=look.color, linestyle=look.dashes, marker=look.marker,
              markevery=12, markersize=5, markeredgewidth=0)
    spans = [bill.interval(count) for count in grid]
    low, high = ([(point if span is None else span[end] / count)
                  for point, span, count in zip(points, spans, grid, strict=True)]
                 for end in (0, 1))
    axes.fill_between(grid, low, high, color=look.color, alpha=0.13, linewidth=0)
    return points


def _pays_from(pools: Sequence[Pool], view: CostView, against: Pool | None) -> str:
    """Say from how many trainings on tuning pays against an optimizer without tuning, if any."""
    if apart := unlike_environments(pools, view):
        return f"When tuning pays is not judged: trials differ in {apart}."
    if against is None:
        return "No optimizer without tuning reached the target: nothing to break even with."
    tuned = [pool for pool in pools if pool.cell.tune and pool.ert.hits]
    if not tuned:
        return f"Only {against.cell.label}, without tuning, reached the target."
    found = sorted(crossings(tuned, [against]), key=lambda each: each.found.trainings)
    if not found:
        return "When tuning pays is not known: nothing was run on fresh seeds."
    said = [payoff_sentence(each.tuned.cell.label, each.found) for each in found]
    return f"Against {against.cell.label}: {'; '.join(said)}."


def _bills_table(scene: TuningScene, last: float) -> Table:
    """Return the bills at round numbers of trainings."""
    counts = [lead * 10**power for power in range(6) for lead in (1, 2, 5)
              if lead * 10**power <= round(last)]
    return Table(
        "trainings", "Bill of R trainings",
        "The bill of R trainings, tuning included, in whole; R times the expected cost without "
        "tuning. With 95 % intervals, which stand alone where they are too wide for a number.",
        (("Optimizer", ""), *((f"R = {count}", "") for count in counts)),
        tuple((name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
               *(_bill(pool, scene.view, count) for count in counts))
              for pool in scene.pools if pool.ert.total))
