"""Figures against the number of ranks: time, bytes, and the two factors of efficiency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import basis

from ..drawing.canvas import Figure, finish, heading, headroom, panel, scale
from ..drawing.style import MUTED
from ..table import Table, Value, name, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

    from bench_apts.core.currency import Currency

    from ..cells import Cell, Group
    from ..context import Context
    from ..drawing.style import Look
    from .numbers import Scaled

_FORMS: Mapping[Currency, Callable[[float], str]] = {
    "train_s": units.seconds, "wire_bytes": units.size}


def shifts(labels: Sequence[str]) -> dict[str, float]:
    """Returns by how much each optimizer stands beside its N, so that none covers another."""
    step = min(0.07, 0.6 / max(1, len(labels)))
    return {label: step * (at - (len(labels) - 1) / 2) for at, label in enumerate(labels)}


def positions(axes: Axes, context: Context, groups: Sequence[Group]) -> None:
    """Sets the horizontal axis: one place for each N."""
    axes.set_xticks(range(len(groups)), [str(group.ranks) for group in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(False, axis="x")
    axes.set_xlabel(f"number of ranks N ({context.suite.scaling} scaling)")


def costs(context: Context, currency: Currency, slug: str, words: str) -> Figure | None:
    """Draws a cost to the target against N, never as a speed-up; None if nobody has any.

    Args:
        context: The suite.
        currency: ``"train_s"`` or ``"wire_bytes"``.
        slug: In the figure's name.
        words: The currency in words.
    """
    # One rank sends nothing.
    groups = [g for g in context.groups if (g.ranks > 1 if currency == "wire_bytes" else
                                            not context.crowded[g.ranks])]
    form = _FORMS[currency]
    drawing, axes = panel(4.9, 3.0, left=0.62)
    values: list[float] = []
    least: list[tuple[float, str]] = []
    drawn: dict[str, Look] = {}
    missed: dict[str, list[int]] = {}
    for label, shift in shifts(list(context.looks)).items():
        look, line = context.looks[label], []
        for at, group in enumerate(groups):
            cell = next(cell for cell in group.cells if cell.label == label)
            if not cell.seeds:
                continue
            seeds = [o.cost[currency] for o in cell.finals if 0 < o.cost[currency] < math.inf]
            axes.plot([at + shift] * len(seeds), seeds, linestyle="", marker=look.marker,
                      markersize=3.5, color=look.color, alpha=0.4, markeredgewidth=0)
            values += seeds
            median = cell.to_target(currency).median
            if 0 < median < math.inf:
                line.append((at + shift, median))
                if group is groups[-1]:
                    least.append((median, label))
            elif math.isinf(median):
                missed.setdefault(label, []).append(group.ranks)
                axes.plot([at + shift], [0.97], transform=axes.get_xaxis_transform(), marker="x",
                          markersize=6, color=look.color, markeredgewidth=1.6)
        if line:
            drawn[label] = look
            axes.plot(*zip(*line, strict=True), color=look.color, linestyle=look.dashes,
                      marker=look.marker, markersize=6, markeredgewidth=0, zorder=3)
    if not values:
        return None
    low, high = min(values) / 1.3, max(values) * 1.3
    scale(axes, "y", form, log=True, limits=headroom(low, high, 1 / 11 if missed else 0))
    positions(axes, context, groups)
    heading(axes, f"{words} to the target")
    caption = ("No optimizer's median seed reached the target at "
               f"N = {groups[-1].ranks}." if not least else
               f"Least at N = {groups[-1].ranks}: {min(least)[1]}, {form(min(least)[0])}.")
    if missed:
        caption += " At the top, crosses: the median seed missed (" + "; ".join(
            f"{label} at N = {', '.join(map(str, ranks))}" for label, ranks in missed.items()
        ) + ")."
    caption += " Large: medians over seeds; small: single seeds."
    if currency == "train_s" and len(groups) < len(context.groups):
        caption += " Not drawn: N with more ranks than cores, whose times measure the machine."
    return finish(
        drawing, f"{context.prefix}-{slug}-ranks",
        f"{context.suite.name}: {words} to the target against N, {context.suite.scaling} scaling",
        caption, drawn, basis=basis.seeds(context, groups),
        data=_costs_table(context, currency, words, groups))


def comparable(rows: Sequence[Scaled]) -> tuple[list[Scaled], int]:
    """Returns those at the largest N beyond N0 that share the smallest N0 there, and that N0.

    An efficiency against a larger N0 is higher for having less to lose.
    """
    beyond = [(row.cell.ranks, row.base.ranks, row) for row in rows
              if row.efficiency and row.base and row.base.ranks < row.cell.ranks]
    if not beyond:
        return [], 0
    ranks = max(entry[0] for entry in beyond)
    base = min(entry[1] for entry in beyond if entry[0] == ranks)
    return [row for *sizes, row in beyond if sizes == [ranks, base]], base


def factor(context: Context, rows: Sequence[Scaled], which: str) -> Figure | None:
    """Draws one factor of efficiency against N; None where no N can be compared.

    Times of more ranks than cores say nothing of the network, so they make no hardware factor.

    Args:
        context: The suite.
        rows: All optimizers at all N.
        which: ``"hardware"`` or ``"statistical"``.
    """
    usable = [row for row in rows if row.efficiency and not (which == "hardware" and row.crowded)]
    sizes = {row.cell.ranks for row in usable}
    groups = [group for group in context.groups if group.ranks in sizes]
    last, base = comparable(usable)
    if not last:
        return None
    at = {group.ranks: place for place, group in enumerate(groups)}
    drawing, axes = panel(4.9, 3.0, left=0.62)
    axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
    drawn: dict[str, Look] = {}
    for label, shift in shifts(list(context.looks)).items():
        line = [(at[row.cell.ranks] + shift, getattr(row.efficiency, which))
                for row in usable if row.cell.label == label]
        if line:
            look = drawn[label] = context.looks[label]
            axes.plot(*zip(*line, strict=True), color=look.color, linestyle=look.dashes,
                      marker=look.marker, markersize=6, markeredgewidth=0, zorder=3)
    values = [getattr(row.efficiency, which) for row in usable]
    scale(axes, "y", units.digits, log=True,
          limits=(min(*values, 0.9) / 1.15, max(*values, 1.0) * 1.15))
    positions(axes, context, groups)
    heading(axes, f"{which} factor of the efficiency")
    best = max(last, key=lambda row: getattr(row.efficiency, which))
    caption = (f"Largest at N = {best.cell.ranks} against N0 = {base}: {best.cell.label}, "
               f"{units.digits(getattr(best.efficiency, which))}. ")
    caption += ("Samples a second and rank, over those at N0: what communication costs."
                if which == "hardware" else
                "Samples to the target at N0, over those at N: what parallelism costs the method.")
    hidden = [group.ranks for group in context.groups if context.crowded[group.ranks]]
    if which == "hardware" and hidden:
        caption += (f" Not drawn: N = {units.listing([str(n) for n in hidden])}, more ranks than "
                    "cores.")
    return finish(
        drawing, f"{context.prefix}-{which}-ranks",
        f"{context.suite.name}: {which} factor of the efficiency against N, "
        f"{context.suite.scaling} scaling", caption, drawn, basis=basis.seeds(context, groups),
        data=_factor_table(context, usable, which))


def _costs_table(context: Context, currency: Currency, words: str,
                 groups: Sequence[Group]) -> Table:
    return Table(
        f"{currency}-ranks", f"Data: {words} to the target", "Median over seeds, and their range.",
        (("Optimizer", ""), ("N", "ranks"), ("Median", "of seeds"), ("Smallest", ""),
         ("Largest", ""), ("Hit", "seeds")),
        tuple(_costs_row(context, currency, cell) for group in groups for cell in group.cells
              if cell.seeds))


def _costs_row(context: Context, currency: Currency, cell: Cell) -> tuple[Value, ...]:
    found, form = cell.to_target(currency), _FORMS[currency]
    shown = [Value(form(value) if math.isfinite(value) else "no hit",
                   numbers={column: value if math.isfinite(value) else None},
                   kind="number" if math.isfinite(value) else "number missed")
             for column, value in ((f"{currency}_median", found.median),
                                   (f"{currency}_low", found.low),
                                   (f"{currency}_high", found.high))]
    return (name(cell.label, suite=context.suite.name), number(str(cell.ranks), ranks=cell.ranks),
            *shown, number(f"{found.hits} of {found.seeds}", hits=found.hits, seeds=found.seeds))


def _factor_table(context: Context, rows: Sequence[Scaled], which: str) -> Table:
    return Table(
        f"{which}-ranks", f"Data: {which} factor", "Of medians over seeds.",
        (("Optimizer", ""), ("N", "ranks"), ("N0", "ranks"), (which.capitalize(), "factor")),
        tuple((name(row.cell.label, suite=context.suite.name),
               number(str(row.cell.ranks), ranks=row.cell.ranks),
               number(str(row.base.ranks), base_ranks=row.base.ranks),
               number(units.digits(getattr(row.efficiency, which)),
                      **{which: getattr(row.efficiency, which)}))
              for row in rows if row.base))
