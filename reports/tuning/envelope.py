"""Bills of R trainings, tuning included, and where they cross: a figure for one N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.amortisation import best_plan, break_even

from .. import units
from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..table import Table, name, number
from .pool import unlike
from .scene import SIZE, finite, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench_apts.stats.amortisation import BreakEven

    from ..table import Value
    from .pool import Pool, View
    from .scene import Scene

_POINTS = 60
_FARTHEST = 10_000  # trainings beyond which no crossing is drawn


class Crossing(NamedTuple):
    """Where the bill of an optimizer that is tuned meets that of one that is not."""

    tuned: Pool
    free: Pool
    found: BreakEven

    @property
    def shown(self) -> bool:
        """Whether there is a crossing within the figure."""
        return 1 < self.found.trainings <= _FARTHEST


def crossings(pools: Sequence[Pool], against: Sequence[Pool]) -> list[Crossing]:
    """Finds the break-even of each tuned optimizer that hit against each of others."""
    return [Crossing(mine, theirs, break_even(mine.lines, theirs.lines))
            for theirs in against for mine in pools if mine.cell.tune and mine.ert.hits]


def envelope(scene: Scene) -> Figure | None:
    """Draws the least bill of R trainings over R; None where no tuned optimizer hit."""
    able = [pool for pool in scene.searches if pool.ert.hits]
    if not any(pool.cell.tune for pool in able):
        return None
    found = [] if unlike(able, scene.view) else crossings(
        able, [pool for pool in able if not pool.cell.tune])
    last = max([100.0, *(2.5 * each.found.trainings for each in found if each.shown)])
    grid = np.unique(np.geomspace(1, last, _POINTS).round().astype(int)).tolist()
    drawing, axes = panel(*SIZE)
    values = [value for pool in able for value in _draw(axes, scene, pool, grid)]
    for each in found:
        if each.shown:
            look = scene.context.looks[each.tuned.cell.label]
            axes.plot([each.found.trainings], [each.free.ert.cost], marker="o", markersize=9,
                      color="none", markeredgecolor=look.color, markeredgewidth=1.6, zorder=4)
    scale(axes, "x", units.count, log=True, limits=(1 / 1.15, last * 1.15))
    scale(axes, "y", scene.axis, log=True, limits=(min(values) / 1.3, max(values) * 1.3))
    axes.set_xlabel("trainings R")
    heading(axes, f"least bill of R trainings, divided by R{scene.unit}")
    return finish(
        drawing, scene.slug("envelope"), scene.title("bill of R trainings, tuning included"),
        f"{pays(scene.pools, scene.view)} The least C(K, R) over K ≤ n/2 tuning trials; level "
        f"lines: without tuning. Rings: break-even R*.{scene.missed(scene.searches)}"
        f"{scene.followers}",
        scene.legend(able), basis=scene.basis, data=_table(scene, grid))


def pays(pools: Sequence[Pool], view: View) -> str:
    """Says from how many trainings on tuning pays against the reference without tuning."""
    if apart := unlike(pools, view):
        return f"When tuning pays is not judged: trials differ in {apart}."
    against = reference(pools)
    able = [pool for pool in pools if not pool.cell.leader]
    if against is None:
        return "No optimizer without tuning reached the target: nothing to break even with."
    found = crossings(able, [against])
    if not found:
        return f"Only {against.cell.label}, without tuning, reached the target."
    words: dict[str, list[str]] = {}
    for each in sorted(found, key=lambda each: each.found.trainings):
        words.setdefault(each.found.verdict, []).append(each.tuned.cell.label)
    parts = [f"{verdict} with {units.listing(labels)}" for verdict, labels in words.items()]
    return f"Against {against.cell.label}, tuning pays {'; '.join(parts)}."


def _draw(axes: Axes, scene: Scene, pool: Pool, grid: Sequence[int]) -> list[float]:
    """Draws one optimizer's line, which ends where its bill is infinite; returns its points."""
    look = scene.context.looks[pool.cell.label]
    bills = [best_plan(pool.lines, count).at(count) / count for count in grid]
    points = [(count, bill) for count, bill in zip(grid, bills, strict=True)
              if math.isfinite(bill)]
    axes.plot(*zip(*points, strict=True), color=look.color, linestyle=look.dashes,
              marker=look.marker, markevery=12, markersize=5, markeredgewidth=0)
    return [bill for _, bill in points]


def _table(scene: Scene, grid: Sequence[int]) -> Table:
    """The bills at round numbers of trainings, and the break-even against the reference."""
    counts = [lead * 10**power for power in range(6) for lead in (1, 2, 5)
              if lead * 10**power <= grid[-1]]
    rows = tuple(_row(scene, pool, counts) for pool in scene.pools if pool.ert.total)
    return Table(
        "envelope", "Bill of R trainings",
        "The least bill of R trainings, tuning included, in whole; R times the expected cost "
        "without tuning. R*: from which number of trainings on tuning pays against the optimizer "
        "without tuning that stands beside it.",
        (("Optimizer", ""), *((f"R = {count}", "") for count in counts), ("R*", "")), rows)


def _row(scene: Scene, pool: Pool, counts: Sequence[int]) -> tuple[Value, ...]:
    view, against = scene.view, reference(scene.pools)
    found = [best_plan(pool.lines, count).at(count) for count in counts]
    least = pool.ert.total
    row = [name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks)]
    row += [view.entry(f"bill_{count}", bill, least) for count, bill in
            zip(counts, found, strict=True)]
    if not pool.cell.tune or against is None:
        return (*row, number(units.NONE, break_even=None, against=None))
    if unlike((pool, against), view):
        return (*row, number("not judged", against.cell.label, break_even=None,
                             against=against.cell.label))
    crossing = break_even(pool.lines, against.lines)
    shown = f"{crossing.trainings:.0f}" if math.isfinite(crossing.trainings) else "never"
    return (*row, number(shown, against.cell.label, break_even=finite(crossing.trainings),
                         against=against.cell.label))
