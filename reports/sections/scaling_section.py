"""Section "scaling": the target at several N, why it takes what it takes, and other networks.

Figures of modelled times to the target beside the measured ones, one for each network.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import modelled_times, section_parts
from bench_apts.reports.canvas import Figure, finish, heading, panel, scale
from bench_apts.reports.figure_style import GRID
from bench_apts.reports.section_parts import Listing, Pictures, Prose, Section
from bench_apts.reports.sections.scaling_factors import (
    comparable,
    cost_figure,
    efficiency_table,
    factor_figure,
    label_shifts,
    scale_optimizers,
    scaling_table,
)
from bench_apts.reports.table import Table, name, number, words
from bench_apts.stats import fabrics
from bench_apts.stats.network_model import Algorithm, BatchScaling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.modelled_times import ProjectedRow
    from bench_apts.reports.section_parts import Block, Context, Part
    from bench_apts.reports.sections.scaling_factors import ScaledOptimizer
    from bench_apts.stats.world_sizes import Efficiency

_LETTER = 0.065
"""Inches that a digit of an axis takes, at most."""


def network_figures(context: Context, rows: Sequence[ProjectedRow]) -> list[Figure]:
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


def _time(row: ProjectedRow) -> float | None:
    """Modelled seconds to the target, None where it was not reached."""
    found = row.middle.to_target_s if row.middle else math.inf
    return found if math.isfinite(found) else None


def _known(context: Context, label: str) -> list[tuple[int, float]]:
    """Measured median seconds to the target, with the number of the N they belong to."""
    cells: list[tuple[int, ReportCell]] = [
        (at, cell) for at, group in enumerate(context.groups) for cell in group.cells
        if cell.label == label and not context.crowded[group.ranks]]
    return [(at, time) for at, cell in cells
            if 0 < (time := cell.to_target("train_s").median) < math.inf]


def _figure(context: Context, fabric: str, rows: Sequence[ProjectedRow],
            limits: tuple[float, float]) -> Figure:
    drawing, axes = panel(3.7, 2.7, left=0.55)
    groups, modelled = context.groups, sorted({row.ranks for row in rows})
    places = {ranks: len(groups) + at for at, ranks in enumerate(modelled)}
    drawn: dict[str, Look] = {}
    for label, shift in label_shifts(list(context.looks)).items():
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
    scale(axes, "y", units.format_seconds, log=True, limits=limits)
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
        drawing,
        f"{context.prefix}-modelled-{fabric}",
        f"{context.suite.name}: time to the target, modelled on {fabric}, {mode} scaling",
        f"Least modelled at N = {last:,}: {label}, {units.format_seconds(least)}.{few} Filled: "
        "measured here. Open, on the hatched ground: modelled, not measured, from the trainings "
        f"at N = {units.listing([str(n) for n in recorded])}.",
        drawn,
        basis=section_parts.basis_sentence(context, groups),
        data=_table(context, fabric, rows),
    )


def spaced(labels: Sequence[str], room: float) -> list[str]:
    """Blanks labels of an axis so that those left, the last among them, do not touch.

    Args:
        labels: In their order.
        room: Inches from one to the next.
    """
    every = max(1, math.ceil(_LETTER * (1 + max(map(len, labels))) / room))
    return [label if (len(labels) - 1 - at) % every == 0 else ""
            for at, label in enumerate(labels)]


def _table(context: Context, fabric: str, rows: Sequence[ProjectedRow]) -> Table:
    measured = [(label, context.groups[at].ranks, time, "measured") for label in context.looks
                for at, time in _known(context, label)]
    guessed = [(row.cell.label, row.ranks, time, "modelled") for row in rows
               if (time := _time(row)) is not None]
    return Table(
        "modelled-figures", f"Data: {fabric}", "Medians over seeds. Modelled: not measured.",
        (("Optimizer", ""), ("N", "ranks"), ("Time", "to target"), ("How", "")),
        tuple((name(label, suite=context.suite.name, fabric=fabric),
               number(f"{ranks:,}", ranks=ranks),
               number(units.format_seconds(time), to_target_s=time), words(how, how=how))
              for label, ranks, time, how in [*measured, *guessed]))


SECTION = Section("scaling", "Scaling", order=40, compares=True)


def part(context: Context) -> Part | None:
    """Returns the section; None with a single N and nothing that could be modelled."""
    rows = scale_optimizers(context)
    blocks: list[Block] = []
    if len({row.cell.ranks for row in rows}) > 1:
        drawn = (
            cost_figure(context, "train_s", "time"),
            cost_figure(context, "wire_bytes", "bytes"),
            factor_figure(context, rows, "hardware"),
            factor_figure(context, rows, "statistical"),
        )
        shown = tuple(figure for figure in drawn if figure)
        if shown:
            blocks.append(Pictures(shown, f"Measured, {context.suite.scaling} scaling", wide=True))
        factors = efficiency_table(context, rows)
        if factors is not None:
            blocks.append(Listing(factors, folded=False))
        blocks.append(Listing(scaling_table(context, rows)))
    blocks += _networks(context)
    if not blocks:
        return None
    return SECTION.part(_finding(context, rows), tuple(blocks),
                legend=True)


def _networks(context: Context) -> list[Block]:
    known = fabrics.load_fabrics()
    networks = fabrics.networks([*known], known, 1, next(iter(known)))
    mine = replace(context.gathered, groups=context.groups)
    rows, notes = modelled_times.project_times(
        mine, modelled_times.RANKS, networks, list(BatchScaling), Algorithm.best
    )
    listing = modelled_times.modelled_table(rows)
    alone = [Prose(f"{note[0].upper()}{note[1:]}.") for note in notes if "needs N = 1" in note]
    if listing is None:
        return [*alone]
    drawn = tuple(network_figures(context, rows))
    key = ("Filled: measured here. Open and dotted: modelled. Nobody measured these times; they "
           "follow from what was recorded, what a rank computes and what it sends.")
    pictures = [Pictures(drawn, "Modelled: other networks, other N", key=key)] if drawn else []
    return [*pictures, Listing(listing), *alone]


def _finding(context: Context, rows: Sequence[ScaledOptimizer]) -> str:
    mode = f"{context.suite.scaling.capitalize()} scaling"
    crowded = [row.cell.ranks for row in rows if context.crowded[row.cell.ranks]]
    compared, base = comparable(rows)
    clear, clear_base = comparable([row for row in rows if not row.crowded])
    if len({row.cell.ranks for row in rows}) < 2:
        return f"{mode}: a single N was run; times at others are not modelled: needs N = 1."
    text = f"{mode}: no optimizer's median seed reached the target at two N that can be compared"
    if clear:
        cell, found = _best(clear, lambda found: found.total)
        text = (f"{mode}: at N = {cell.ranks} the highest efficiency against N = {clear_base} is "
                f"that of {cell.label}, {units.digits(found.total)} = "
                f"{units.digits(found.hardware)} hardware × "
                f"{units.digits(found.statistical)} statistical")
    elif compared:
        cell, found = _best(compared, lambda found: found.statistical)
        text = (f"{mode}: at N = {cell.ranks} {cell.label} has the largest statistical "
                f"factor against N = {base}, {units.digits(found.statistical)}")
    if crowded:
        sizes = units.listing([str(n) for n in sorted(set(crowded))])
        text += f"; times at N = {sizes} measure this machine, which has fewer cores"
    return text + "."


def _best(rows: Sequence[ScaledOptimizer],
          value: Callable[[Efficiency], float]) -> tuple[ReportCell, Efficiency]:
    """Finds who has the largest value, and its efficiency."""
    found = [(value(row.efficiency), row.cell, row.efficiency) for row in rows if row.efficiency]
    _, cell, efficiency = max(found, key=lambda entry: entry[0])
    return cell, efficiency
