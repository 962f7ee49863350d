"""Across world sizes: tune again at each N, or tune at the smallest and transfer.

Bills of R trainings, tuning included, and where they cross: a figure for one N.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.core import units
from bench_apts.reports.canvas import Figure, finish, heading, panel, scale
from bench_apts.reports.section_parts import FIGURE_SIZE, untuned_reference
from bench_apts.reports.table import Table, Value, name, number
from bench_apts.reports.tuning_pools import (
    TRAININGS,
    bill_entry,
    crossings,
    pays_from,
    unlike_environments,
)
from bench_apts.stats.world_sizes import WorldSizeCosts, transfer_regret, transfer_totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench_apts.reports.section_parts import TuningScene
    from bench_apts.reports.tuning_pools import CostView, Crossing, Pool
    from bench_apts.stats.amortisation import Trainings
    from bench_apts.stats.expected_cost import Ert

class _BillsAtN(NamedTuple):
    """Bills at one N: expected ones, and what they are at least where nothing hit.

    Attributes:
        ranks: World size N.
        tuned: Of the tuning trials.
        native: Of the configuration frozen here, on fresh seeds.
        transferred: Of the one frozen at the smallest N.
        fresh: Whether ``transferred`` is of fresh seeds too, and not of one tuning trial.
        bill: Of trainings here.
    """

    ranks: int
    tuned: Ert
    native: Ert
    transferred: Ert
    fresh: bool
    bill: Trainings

    def told(self, trainings: int) -> bool:
        """Whether the bill of R trainings is known well enough to be a number."""
        return (self.bill.interval(trainings) is None or not self.native.hits
                or self.bill.worth_a_number(trainings))

    def costs(self, *, least: bool) -> WorldSizeCosts:
        """Returns the expected costs, or lower limits of them, which are always finite."""
        # All n trials are billed, since the configuration is the best of all n.
        bill = self.tuned.total if least or self.tuned.hits else math.inf
        return WorldSizeCosts(self.ranks, bill, *(
            found.bound if least and not found.hits else found.cost
            for found in (self.native, self.transferred)))


def transfer_bills(pools: Sequence[Pool], view: CostView) -> tuple[Table | None, list[str]]:
    """The three totals of each optimizer on one suite, with notes on who is left out and why.

    Args:
        pools: Trials of all optimizers at all N.
        view: Currency, level and device.

    Returns:
        The table, None for a single N or if nobody was tuned, and the notes.
    """
    sizes = sorted({pool.cell.ranks for pool in pools})
    if len(sizes) < 2 or not any(pool.cell.tune for pool in pools):
        return None, []
    rows: list[tuple[Value, ...]] = []
    notes = []
    for label in dict.fromkeys(pool.cell.label for pool in pools):
        mine = {pool.cell.ranks: pool for pool in pools if pool.cell.label == label}
        places, why = _places(mine, sizes)
        if why:
            notes.append(f"totals across N leave out {label} on {pools[0].cell.suite.name}: {why}")
            continue
        rows += _rows(mine[sizes[0]], places, view)
    if not rows:
        return None, notes
    return Table(
        "bill-world-sizes", f"Totals over N = {units.listing([str(n) for n in sizes])}",
        "Totals over N: tuning with all trials and training R times at each N, the tuning being "
        "the first training; or tuning at the smallest N alone and carrying its configuration "
        "over unchanged. Regret: expected cost with that configuration over expected cost with "
        "the one chosen at N; 1 where they are the same. A configuration that was not frozen at "
        "N has been run once there, in tuning: its regret is rough, and trainings with it are not "
        "billed. Not told: the bill of one N has an interval that is too wide.",
        (("Optimizer", ""), ("R", ""), ("Tune at each N", ""),
         (f"Tune at N = {sizes[0]} and transfer", ""),
         *((f"Regret at N = {n}", "") for n in sizes[1:])),
        tuple(rows)), notes


def _places(mine: dict[int, Pool], sizes: Sequence[int]) -> tuple[list[_BillsAtN], str]:
    """Returns the bills at each N, or in words what is missing."""
    first = mine.get(sizes[0])
    if first is None or len(mine) < len(sizes):
        return [], "it has no trials with known costs at some N"
    found = []
    for ranks, pool in sorted(mine.items()):
        tuned = pool.ert
        if not pool.cell.tune:
            if first.cell.tune:
                return [], "it was tuned at some N only"
            assert pool.bill  # what is not tuned has nothing but fresh seeds
            found.append(_BillsAtN(ranks, tuned, tuned, tuned, True, pool.bill))
            continue
        if pool.cell.frozen is None or first.cell.frozen is None:
            where = sizes[0] if first.cell.frozen is None else ranks
            return [], f"no configuration could be chosen at N = {where}"
        native = pool.fresh(pool.cell.frozen)
        transferred = pool.trained(first.cell.frozen)
        if native is None or pool.bill is None:
            return [], f"the configuration chosen at N = {ranks} was not run on fresh seeds"
        if transferred is None:
            return [], f"the configuration chosen at N = {sizes[0]} was not run at N = {ranks}"
        found.append(_BillsAtN(ranks, tuned, native, transferred,
                            pool.fresh(first.cell.frozen) is not None, pool.bill))
    if any(not cost > 0 for place in found[1:] for cost in place.costs(least=True)[1:]):
        return [], "nothing was spent in this currency"
    return found, ""


def _rows(pool: Pool, places: Sequence[_BillsAtN], view: CostView) -> list[tuple[Value, ...]]:
    exact = _untuned if not pool.cell.tune else _tuned
    rows = []
    for count in TRAININGS:
        each, transfer = exact(places, count, least=False)
        least = exact(places, count, least=True)
        told = all(place.told(count) for place in places)
        rows.append((
            name(pool.cell.label, suite=pool.cell.suite.name,
                 badge="" if pool.cell.tune else "no tuning"),
            number(str(count), trainings=count, level=view.level, currency=view.currency),
            view.entry("tune_each", each, least[0]) if told else _unknown(
                "tune_each", view, "not told"),
            _unknown("transfer", view, "not rerun") if not all(
                place.fresh for place in places[1:])
            else view.entry("transfer", transfer, least[1]) if told
            else _unknown("transfer", view, "not told"),
            *(_regret(place) if pool.cell.tune else Value(
                units.NONE, numbers={f"regret_{place.ranks}": None}) for place in places[1:])))
    return rows


def _unknown(column: str, view: CostView, why: str) -> Value:
    return Value(why, numbers={f"{column}_{view.currency}": None}, kind="number missed")


def _tuned(places: Sequence[_BillsAtN], count: int, *, least: bool) -> tuple[float, float]:
    found = transfer_totals([place.costs(least=least) for place in places], count)
    return found.tune_each, found.transfer


def _untuned(places: Sequence[_BillsAtN], count: int, *, least: bool) -> tuple[float, float]:
    """Nothing is tuned or transferred: each training costs the ERT, at any N."""
    bill = math.fsum(count * place.costs(least=least).native for place in places)
    return bill, bill


def _regret(place: _BillsAtN) -> Value:
    column = f"regret_{place.ranks}"
    native, transferred = place.native, place.transferred
    ratio = transfer_regret(transferred.cost, native.cost)
    if native.hits and transferred.hits:
        return Value(units.digits(ratio), "" if place.fresh else "one trial",
                     {column: ratio})
    if native.hits:
        least = transfer_regret(transferred.bound, native.cost)
        text = f"more than {units.digits(least)}" if math.isfinite(least) else "no hit"
    else:
        text = "only transferred hit" if transferred.hits else "neither hit"
    return Value(text, numbers={column: None}, kind="number missed")


_POINTS = 40
_FARTHEST = 10_000  # trainings beyond which no crossing is drawn


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
    drawing, axes = panel(*FIGURE_SIZE)
    values = [value for pool in able for value in _draw(axes, scene, pool, grid)]
    _rings(axes, scene, found)
    scale(axes, "x", units.format_count, log=True, limits=(1 / 1.15, last * 1.15))
    scale(axes, "y", scene.axis, log=True, limits=(min(values) / 1.5, max(values) * 1.5))
    axes.set_xlabel("trainings R")
    heading(axes, f"bill of R trainings, divided by R{scene.unit}")
    against = untuned_reference(scene.pools)
    return finish(
        drawing,
        scene.slug("trainings"),
        scene.title("bill of R trainings, tuning included"),
        f"{pays_from(scene.searches, scene.view, against)} All tuning trials and R − 1 trainings "
        "on fresh seeds; level lines: without tuning. Bands: 95 % intervals. Rings: R*, where the "
        f"trials tell it.{scene.missed(scene.searches)}{scene.followers}",
        scene.legend(able),
        basis=scene.basis,
        data=_table(scene, grid),
    )


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


def _rings(axes: Axes, scene: TuningScene, found: Sequence[Crossing]) -> None:
    for each in found:
        assert each.free.bill
        look = scene.context.looks[each.tuned.cell.label]
        axes.plot([each.found.trainings], [each.free.bill.again], marker="o", markersize=9,
                  color="none", markeredgecolor=look.color, markeredgewidth=1.6, zorder=4)


def _table(scene: TuningScene, grid: Sequence[int]) -> Table:
    """The bills at round numbers of trainings."""
    counts = [lead * 10**power for power in range(6) for lead in (1, 2, 5)
              if lead * 10**power <= grid[-1]]
    rows = tuple((name(pool.cell.label, suite=scene.context.suite.name, ranks=scene.ranks),
                  *(bill_entry(pool, scene.view, count) for count in counts))
                 for pool in scene.pools if pool.ert.total)
    return Table(
        "trainings", "Bill of R trainings",
        "The bill of R trainings, tuning included, in whole; R times the expected cost without "
        "tuning. With 95 % intervals, which stand alone where they are too wide for a number.",
        (("Optimizer", ""), *((f"R = {count}", "") for count in counts)), rows)
