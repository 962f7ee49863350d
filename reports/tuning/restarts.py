"""How the cost of a whole search scatters: the ECDF of the restart cost for one N."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core import units
from bench_apts.stats.restart import restart_costs, restart_quantile

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..table import Table, name, number
from .scene import SIZE

if TYPE_CHECKING:
    from ..table import Value
    from .pool import Pool
    from .scene import Scene

_SHARES = (0.1, 0.5, 0.9)
_PERCENTS = 100


def restarts(scene: Scene) -> Figure | None:
    """Draws the share of searches that a budget suffices for; None where nobody hit."""
    able = [pool for pool in scene.searches if pool.ert.hits]
    if not able:
        return None
    drawing, axes = panel(*SIZE)
    levels = np.arange(1, _PERCENTS) / _PERCENTS
    ends = []
    for pool in able:
        look = scene.context.looks[pool.cell.label]
        costs = np.quantile(restart_costs(pool.spent, pool.cost), levels, method="inverted_cdf")
        ends += [costs[0], costs[-1]]
        axes.plot(costs, levels, color=look.color, linestyle=look.dashes, marker=look.marker,
                  markevery=(9, 40), markersize=5, markeredgewidth=0, drawstyle="steps-post")
    # A search that costs nothing has no place on a logarithmic axis.
    paid = [end for end in ends if end > 0]
    scale(axes, "x", scene.axis, log=True, limits=(min(paid) / 1.3, max(paid) * 1.3))
    scale(axes, "y", lambda share: units.percent(share, 0), limits=(0, 1.02))
    axes.set_xlabel(f"bill of a search until it hits{scene.unit}")
    heading(axes, "share of searches that such a bill suffices for")
    tails = [(restart_quantile(pool.spent, pool.cost, 0.9), pool.cell.label) for pool in able]
    tail, label = min(tails)
    caption = f"Nine of ten searches end for the least with {label}: {scene.view.show(tail)}."
    if len(tails) > 1:
        most, other = max(tails)
        caption += f" The most: {other}, {scene.view.show(most)}."
    return finish(
        drawing, scene.slug("restarts"), scene.title("how the cost of a search scatters"),
        f"{caption} A search draws trials, with replacement, until one hits; 20,000 were "
        "simulated, and the line has a point for each percent of them."
        + scene.missed(scene.searches) + scene.followers, scene.legend(able),
        basis=scene.basis, data=_table(scene))


def _table(scene: Scene) -> Table:
    return Table(
        "restarts", "Cost of a search until it hits",
        "Bill that this share of searches does not exceed.",
        (("Optimizer", ""), ("Hit", "trials"),
         *((f"{units.percent(share, 0)} of searches", "") for share in _SHARES)),
        tuple(_row(scene, pool) for pool in scene.searches))


def _row(scene: Scene, pool: Pool) -> tuple[Value, ...]:
    return (
        name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
        number(f"{pool.ert.hits} of {pool.ert.trials}", hits=pool.ert.hits,
               trials=pool.ert.trials),
        *(scene.view.entry(f"restart_q{100 * share:.0f}",
                           restart_quantile(pool.spent, pool.cost, share), 0.0)
          for share in _SHARES))
