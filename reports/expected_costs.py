"""The figure of the first answer: the expected cost of each optimizer at each N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun, headline
from bench_apts.reports import canvas, cost_tables, panel_rows, table
from bench_apts.reports.tuning_pools import CostView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context


def expected_figure(context: Context) -> canvas.Figure | None:
    """Draw the expected cost including tuning with its interval, a panel for each N.

    None where no trial cost anything. Misses are open arrows.
    """
    device = context.gathered.device
    view = CostView(headline(device), 1.0, device)
    groups = [(group, cells) for group in context.groups
              if (cells := [cell for cell in group.cells if cell.draws])
              and any(cell.ert(view.currency).total for cell in cells)]
    if not groups:
        return None
    points = [value for _, cells in groups for cell in cells
              for value in _ends(cell, view.currency)]
    limits = min(points) / 1.5, max(points) * 1.5
    noun = currency_noun(view.currency, device)

    def draw() -> Drawing:
        drawing, panels = panel_rows.row_panels(
            [[cell.label for cell in cells] for _, cells in groups], right=1.65)
        for axes, (group, cells) in zip(panels, groups, strict=True):
            canvas.scale(axes, "x", CURRENCIES[view.currency].form, log=True, limits=limits,
                         ticks=4)
            for row, cell in enumerate(cells):
                _draw_row(axes, context, view, row, cell, limits)
            canvas.heading(axes, f"N = {group.ranks}: expected cost to the target, in {noun}")
        return drawing

    return context.figure(
        draw, "expected-cost", "expected cost, tuning included",
        " ".join(filter(None, (*(_caption(group, cells, view) for group, cells in groups),
                               "Bars: 95 % interval; an arrow: no upper limit."))),
        basis="", data=_table(groups, view))


def _draw_row(axes: Axes, context: Context, view: CostView, row: int, cell: ReportCell,
              limits: tuple[float, float]) -> None:
    look, expected = context.looks[cell.label], cell.ert(view.currency)
    (low, high), interval = limits, cell.interval(view.currency)
    if not expected.hits:
        panel_rows.write_value(axes, row, f"more than {view.show(expected.bound)}")
        if expected.total > 0:
            axes.plot([expected.bound, high], [row, row], color=look.color, linewidth=1,
                      linestyle=":")
            canvas.draw_marks(axes, [expected.bound], [row], look, marker=">", size=8,
                              hollow=True)
        return
    panel_rows.write_value(axes, row, view.show(expected.cost))
    if interval is not None:
        axes.plot([max(interval.low, low), min(interval.high, high)], [row, row],
                  color=look.color, linewidth=2, solid_capstyle="butt", alpha=0.6)
        if math.isinf(interval.high):
            canvas.draw_marks(axes, [high], [row], look, marker=">", clip_on=False)
    canvas.draw_marks(axes, [expected.cost], [row], look, size=8)


def _caption(group: CellGroup, cells: Sequence[ReportCell], view: CostView) -> str:
    ranked = table.rank_by_cost(cells, view.currency)
    missed = [f"{cell.label} ({table.hits_of_trials(0, cell.ert(view.currency).trials)})"
              for cell in cells if not cell.ert(view.currency).hits]
    if not ranked:
        return f"At N = {group.ranks} no optimizer reached the target."
    return "" if not missed else (
        f"Open arrows at N = {group.ranks}: {units.listing(missed)}, so the cost is more than "
        "that, with 95 % confidence.")


def _ends(cell: ReportCell, currency: Currency) -> list[float]:
    """Return the finite positive numbers that an expected cost's row must have room for."""
    expected, interval = cell.ert(currency), cell.interval(currency)
    found = [expected.cost if expected.hits else expected.bound]
    if interval is not None and expected.hits:
        found += [interval.low, interval.high]
    return [value for value in found if 0 < value < math.inf]


def _table(groups: Sequence[tuple[CellGroup, Sequence[ReportCell]]],
           view: CostView) -> table.Table:
    return table.grouped_table(
        "expected", "Expected cost, tuning included",
        "With its 95 % interval; “or more”: without an upper limit.",
        (("Optimizer", ""), ("N", "ranks"), ("Hit", "trials"),
         ("Expected cost", currency_noun(view.currency, view.device))),
        ([(table.name(cell.label, suite=cell.suite.name),
           table.number(str(cell.ranks), ranks=cell.ranks),
           table.number(f"{found.hits} of {found.trials}", hits=found.hits, trials=found.trials),
           cost_tables.headlined(cell, view.device))
          for cell in cells for found in [cell.ert(view.currency)]] for _, cells in groups))
