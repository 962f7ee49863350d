"""Bills of R trainings, tuning included, and where they cross: a figure for one N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core import units

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..table import Table, name
from .pays import crossings, entry, pays
from .pool import unlike
from .scene import SIZE, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from .pays import Crossing
    from .pool import Pool
    from .scene import Scene

_POINTS = 40
_FARTHEST = 10_000  # trainings beyond which no crossing is drawn


def amortised(scene: Scene) -> Figure | None:
    """Draw the bill of R trainings over R; None where no tuned optimizer hit and was rerun."""
    able = [pool for pool in scene.searches
            if pool.ert.hits and pool.bill and math.isfinite(pool.bill.again)]
    if not any(pool.cell.tune for pool in able):
        return None
    found = [] if unlike(able, scene.view) else [
        each for each in crossings(able, [pool for pool in able if not pool.cell.tune])
        if each.found.told and 1 < each.found.trainings <= _FARTHEST]
    last = max([100.0, *(2.5 * each.found.trainings for each in found)])
    grid = np.unique(np.geomspace(1, last, _POINTS).round().astype(int)).tolist()
    drawing, axes = panel(*SIZE)
    values = [value for pool in able for value in _draw(axes, scene, pool, grid)]
    _rings(axes, scene, found)
    scale(axes, "x", units.count, log=True, limits=(1 / 1.15, last * 1.15))
    scale(axes, "y", scene.axis, log=True, limits=(min(values) / 1.5, max(values) * 1.5))
    axes.set_xlabel("trainings R")
    heading(axes, f"bill of R trainings, divided by R{scene.unit}")
    against = reference(scene.pools)
    return finish(
        drawing, scene.slug("trainings"), scene.title("bill of R trainings, tuning included"),
        f"{pays(scene.searches, scene.view, against)} All tuning trials and R − 1 trainings on "
        "fresh seeds; level lines: without tuning. Bands: 95 % intervals. Rings: R*, where the "
        f"trials tell it.{scene.missed(scene.searches)}{scene.followers}",
        scene.legend(able), basis=scene.basis, data=_table(scene, grid))


def _draw(axes: Axes, scene: Scene, pool: Pool, grid: Sequence[int]) -> list[float]:
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


def _rings(axes: Axes, scene: Scene, found: Sequence[Crossing]) -> None:
    for each in found:
        assert each.free.bill
        look = scene.context.looks[each.tuned.cell.label]
        axes.plot([each.found.trainings], [each.free.bill.again], marker="o", markersize=9,
                  color="none", markeredgecolor=look.color, markeredgewidth=1.6, zorder=4)


def _table(scene: Scene, grid: Sequence[int]) -> Table:
    """The bills at round numbers of trainings."""
    counts = [lead * 10**power for power in range(6) for lead in (1, 2, 5)
              if lead * 10**power <= grid[-1]]
    rows = tuple((name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
                  *(entry(pool, scene.view, count) for count in counts))
                 for pool in scene.pools if pool.ert.total)
    return Table(
        "trainings", "Bill of R trainings",
        "The bill of R trainings, tuning included, in whole; R times the expected cost without "
        "tuning. With 95 % intervals, which stand alone where they are too wide for a number.",
        (("Optimizer", ""), *((f"R = {count}", "") for count in counts)), rows)
