"""Figures of modelled times to the target beside the measured ones, one for each network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import basis

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..drawing.style import GRID
from ..table import Table, name, number, words
from .figures import shifts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cells import Cell
    from ..context import Context
    from ..drawing.style import Look
    from .projected import Row


_LETTER = 0.065
"""Inches that a digit of an axis takes, at most."""


def figures(context: Context, rows: Sequence[Row]) -> list[Figure]:
    """Draws for each network the time to the target against N: measured, then modelled.

    Args:
        context: The suite.
        rows: Projections of its optimizers; those of the suite's own scaling mode are drawn.
    """
    mode = [row for row in rows
            if row.scaling == context.suite.scaling and _time(row) is not None]
    if not mode:
        return []
    times = [*(_time(row) or 0.0 for row in mode), *(
        time for _, time in (pair for label in context.looks for pair in _known(context, label)))]
    limits = min(times) / 1.4, max(times) * 1.4
    return [_figure(context, fabric, [row for row in mode if row.fabric == fabric], limits)
            for fabric in dict.fromkeys(row.fabric for row in mode)]


def _time(row: Row) -> float | None:
    """Modelled seconds to the target, None where it was not reached."""
    found = row.middle.to_target_s if row.middle else math.inf
    return found if math.isfinite(found) else None


def _known(context: Context, label: str) -> list[tuple[int, float]]:
    """Measured median seconds to the target, with the number of the N they belong to."""
    cells: list[tuple[int, Cell]] = [
        (at, cell) for at, group in enumerate(context.groups) for cell in group.cells
        if cell.label == label and not context.crowded[group.ranks]]
    return [(at, time) for at, cell in cells
            if 0 < (time := cell.to_target("train_s").median) < math.inf]


def _figure(context: Context, fabric: str, rows: Sequence[Row],
            limits: tuple[float, float]) -> Figure:
    drawing, axes = panel(3.7, 2.7, left=0.55)
    groups, modelled = context.groups, sorted({row.ranks for row in rows})
    places = {ranks: len(groups) + at for at, ranks in enumerate(modelled)}
    drawn: dict[str, Look] = {}
    for label, shift in shifts(list(context.looks)).items():
        look = context.looks[label]
        guessed = [(places[row.ranks], time) for row in rows
                   if row.cell.label == label and (time := _time(row)) is not None]
        for points, measured in ((_known(context, label), True), (guessed, False)):
            if points:
                drawn[label] = look
                axes.plot([at + shift for at, _ in points], [time for _, time in points],
                          color=look.color, linestyle=look.dashes if measured else ":",
                          linewidth=1.6 if measured else 1.0, marker=look.marker, markersize=5,
                          markerfacecolor=look.color if measured else "none",
                          markeredgecolor=look.color, markeredgewidth=0 if measured else 1.2)
    end = len(groups) + len(modelled) - 0.5
    axes.axvspan(len(groups) - 0.5, end, facecolor="none", hatch="////", edgecolor=GRID,
                 linewidth=0, zorder=0)
    scale(axes, "y", units.seconds, log=True, limits=limits)
    room = axes.get_position().width * drawing.get_figwidth() / (len(groups) + len(modelled))
    axes.set_xticks(range(len(groups) + len(modelled)), [
        *spaced([str(group.ranks) for group in groups], room),
        *spaced([str(ranks) for ranks in modelled], room)])
    axes.set_xlim(-0.5, end)
    axes.grid(False, axis="x")
    mode = context.suite.scaling
    axes.set_xlabel(f"N measured here  |  N modelled ({mode} scaling)")
    heading(axes, f"training time to the target, modelled on {fabric}")
    last = max(modelled)
    there = [(time, row.cell.label) for row in rows
             if row.ranks == last and (time := _time(row)) is not None]
    least, label = min(there)
    absent = sorted({row.cell.label for row in rows} - {label for _, label in there})
    few = (f" Not {units.listing(absent)}: a minibatch of fewer samples than ranks."
           if absent else "")
    recorded = sorted({row.cell.ranks for row in rows})
    return finish(
        drawing, f"{context.prefix}-modelled-{fabric}",
        f"{context.suite.name}: time to the target, modelled on {fabric}, {mode} scaling",
        f"Least modelled at N = {last:,}: {label}, {units.seconds(least)}.{few} Filled: measured "
        "here. Open, on the hatched ground: modelled, not measured, from the trainings at "
        f"N = {units.listing([str(n) for n in recorded])}.", drawn,
        basis=basis.seeds(context, groups), data=_table(context, fabric, rows))


def spaced(labels: Sequence[str], room: float) -> list[str]:
    """Blanks labels of an axis so that those left, the last among them, do not touch.

    Args:
        labels: In their order.
        room: Inches from one to the next.
    """
    every = max(1, math.ceil(_LETTER * (1 + max(map(len, labels))) / room))
    return [label if (len(labels) - 1 - at) % every == 0 else ""
            for at, label in enumerate(labels)]


def _table(context: Context, fabric: str, rows: Sequence[Row]) -> Table:
    measured = [(label, context.groups[at].ranks, time, "measured") for label in context.looks
                for at, time in _known(context, label)]
    guessed = [(row.cell.label, row.ranks, time, "modelled") for row in rows
               if (time := _time(row)) is not None]
    return Table(
        "modelled-figures", f"Data: {fabric}", "Medians over seeds. Modelled: not measured.",
        (("Optimizer", ""), ("N", "ranks"), ("Time", "to target"), ("How", "")),
        tuple((name(label, suite=context.suite.name, fabric=fabric),
               number(f"{ranks:,}", ranks=ranks),
               number(units.seconds(time), to_target_s=time), words(how, how=how))
              for label, ranks, time, how in [*measured, *guessed]))
