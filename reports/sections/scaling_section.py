"""Scaling: the target at several N, why it takes what it takes, and other networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, headline
from bench_apts.reports import canvas, modelled_times, panel_rows, section_parts
from bench_apts.reports.figure_style import MUTED
from bench_apts.reports.sections import scaling_factors
from bench_apts.reports.table import Table, name, number, reached, words
from bench_apts.stats import network_model
from bench_apts.stats.modelled_training import BatchScaling
from bench_apts.stats.network_model import Algorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.modelled_times import ProjectedRow
    from bench_apts.reports.section_parts import Block, Context, Part
    from bench_apts.reports.sections.scaling_factors import ScaledOptimizer
    from bench_apts.stats.world_sizes import Efficiency

_SEEDS = 10
"""Seeds of an optimizer that are drawn one by one at each N."""

SECTION = section_parts.Section("scaling", "Scaling", order=40, compares=True, evidence=True)

def part(context: Context) -> Part | None:
    """Build the section; None with a single N and nothing that could be modelled."""
    rows = scaling_factors.scale_optimizers(context)
    blocks: list[Block] = []
    more: list[Block] = []
    if len({row.cell.ranks for row in rows}) > 1:
        first = headline(context.gathered.device)
        blocks += _pictures(_cost_figure(context, first, first.replace("_", "-")),
                            _cost_figure(context, "wire_bytes", "bytes"))
        more += _pictures(_cost_figure(context, "train_s", "time"),
                          _factor_figure(context, rows, "hardware"),
                          _factor_figure(context, rows, "statistical"))
        more += section_parts.tables(scaling_factors.efficiency_table(context, rows),
                                     scaling_factors.scaling_table(context, rows), folded=False)
    more += _networks(context)
    return SECTION.part(_finding(context, rows), blocks, more=more) if more else None


def _pictures(*drawn: canvas.Figure | None) -> list[section_parts.Pictures]:
    """Return what holds those figures that there are."""
    shown = tuple(figure for figure in drawn if figure)
    return [section_parts.Pictures(shown)] if shown else []


def _finding(context: Context, rows: Sequence[ScaledOptimizer]) -> str:
    mode = f"{context.suite.scaling.capitalize()} scaling"
    crowded = {row.cell.ranks for row in rows if context.crowded[row.cell.ranks]}
    compared, base = scaling_factors.comparable(rows)
    clear, clear_base = scaling_factors.comparable([row for row in rows if not row.crowded])
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
        sizes = units.listing([str(n) for n in sorted(crowded)])
        text += f"; times at N = {sizes} measure this machine, which has fewer cores"
    return text + "."


def _best(rows: Sequence[ScaledOptimizer],
          value: Callable[[Efficiency], float]) -> tuple[ReportCell, Efficiency]:
    """Find who has the largest value, and its efficiency."""
    return max(((row.cell, row.efficiency) for row in rows if row.efficiency),
               key=lambda pair: value(pair[1]))


def _shifts(context: Context) -> dict[str, float]:
    """Return by how much each optimizer stands off its N, so that none covers another."""
    step = min(0.07, 0.6 / max(1, len(context.looks)))
    return {label: step * (at - (len(context.looks) - 1) / 2)
            for at, label in enumerate(context.looks)}


def _place_ranks(axes: Axes, labels: Sequence[str]) -> None:
    """Set the horizontal axis: one place for each N."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(False, axis="x")


def _cost_figure(context: Context, currency: Currency, slug: str) -> canvas.Figure | None:
    """Draw a cost to the target against N, never as a speed-up; None if no optimizer has one."""
    row = CURRENCIES[currency]
    groups = [g for g in context.groups if row.applies(context.gathered.device, g.ranks)
              and not (row.is_clock and context.crowded[g.ranks])]
    form, words, shifts = row.form, row.words, _shifts(context)
    values: list[tuple[str, float, list[float]]] = []
    medians: list[tuple[str, int, float, float]] = []
    missed: dict[str, list[int]] = {}
    for at, group in enumerate(groups):
        for cell in (cell for cell in group.cells if cell.seeds):
            x = at + shifts[cell.label]
            values.append((cell.label, x, [o.cost[currency] for o in cell.finals
                                           if 0 < o.cost[currency] < math.inf][:_SEEDS]))
            median = cell.to_target(currency).median
            if 0 < median < math.inf:
                medians.append((cell.label, group.ranks, x, median))
            elif math.isinf(median):
                missed.setdefault(cell.label, []).append(group.ranks)
    every = [value for *_, seeds in values for value in seeds]
    if not every:
        return None

    def draw() -> Drawing:
        drawing, axes = canvas.panel(*section_parts.FIGURE_SIZE, left=0.62)
        for label, x, seeds in values:
            canvas.draw_marks(axes, [x] * len(seeds), seeds, context.looks[label], size=3.5,
                              alpha=0.4)
        for at, group in enumerate(groups):
            for label in (label for label, sizes in missed.items() if group.ranks in sizes):
                canvas.draw_marks(axes, [at + shifts[label]], [0.97], context.looks[label],
                                  marker="x", transform=axes.get_xaxis_transform())
        data = pd.DataFrame(medians, columns=["optimizer", "ranks", "x", "median"])
        canvas.draw_lines(axes, data, "x", "median", context.looks, markersize=6)
        canvas.scale(axes, "y", form, log=True, limits=canvas.headroom(
            min(every) / 1.3, max(every) * 1.3, 1 / 11 if missed else 0))
        _place_ranks(axes, [str(group.ranks) for group in groups])
        axes.set_xlabel(f"number of ranks N ({context.suite.scaling} scaling)")
        canvas.heading(axes, f"{words} to the target")
        return drawing

    last = groups[-1].ranks
    least = min(((median, label) for label, ranks, _, median in medians if ranks == last),
                default=None)
    caption = (f"Least at N = {last}: {least[1]}, {form(least[0])}." if least else
               f"No optimizer's median seed reached the target at N = {last}.")
    if missed:
        caption += " At the top, crosses: the median seed missed (" + "; ".join(
            f"{label} at N = {', '.join(map(str, missed[label]))}"
            for label in context.looks if label in missed) + ")."
    many = max(len(cell.seeds) for group in groups for cell in group.cells) > _SEEDS
    caption += (" Large: medians over seeds; small: "
                f"{f'the first {_SEEDS} that hit' if many else 'single seeds'}.")
    if row.is_clock and len(groups) < len(context.groups):
        caption += " Not drawn: N with more ranks than cores, whose times measure the machine."
    return context.figure(
        draw, f"{slug}-ranks", f"{words} to the target against N, {context.suite.scaling} "
        "scaling", caption, drawn=[label for label in context.looks if label in {
            name for name, *_ in medians}], basis=section_parts.basis_sentence(context, groups),
        data=_costs_table(context, currency, words, groups))


def _factor_figure(context: Context, rows: Sequence[ScaledOptimizer],
                   which: str) -> canvas.Figure | None:
    """Draw the ``hardware`` or the ``statistical`` factor of efficiency against N.

    Times of more ranks than cores say nothing of the network, so they make no hardware factor.
    None where no N can be compared.
    """
    usable = [row for row in rows if row.efficiency and not (which == "hardware" and row.crowded)]
    last, base = scaling_factors.comparable(usable)
    if not last:
        return None
    sizes = {row.cell.ranks for row in usable}
    groups = [group for group in context.groups if group.ranks in sizes]
    at, shifts = {group.ranks: place for place, group in enumerate(groups)}, _shifts(context)

    def draw() -> Drawing:
        drawing, axes = canvas.panel(*section_parts.FIGURE_SIZE, left=0.62)
        axes.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
        data = pd.DataFrame([
            (row.cell.label, at[row.cell.ranks] + shifts[row.cell.label],
             getattr(row.efficiency, which)) for row in usable],
            columns=["optimizer", "x", "factor"])
        canvas.draw_lines(axes, data, "x", "factor", context.looks, markersize=6)
        canvas.scale(axes, "y", units.digits, log=True, limits=(
            min(*data["factor"], 0.9) / 1.15, max(*data["factor"], 1.0) * 1.15))
        _place_ranks(axes, [str(group.ranks) for group in groups])
        axes.set_xlabel(f"number of ranks N ({context.suite.scaling} scaling)")
        canvas.heading(axes, f"{which} factor of the efficiency")
        return drawing

    best = max(last, key=lambda row: getattr(row.efficiency, which))
    caption = (f"Largest at N = {best.cell.ranks} against N0 = {base}: {best.cell.label}, "
               f"{units.digits(getattr(best.efficiency, which))}. ")
    caption += ("Samples a second and rank, over those at N0: what communication costs."
                if which == "hardware" else
                "Samples to the target at N0, over those at N: what parallelism costs the method.")
    hidden = [str(group.ranks) for group in context.groups if context.crowded[group.ranks]]
    if which == "hardware" and hidden:
        caption += f" Not drawn: N = {units.listing(hidden)}, more ranks than cores."
    return context.figure(
        draw, f"{which}-ranks", f"{which} factor of the efficiency against N, "
        f"{context.suite.scaling} scaling", caption,
        drawn=dict.fromkeys(row.cell.label for row in usable),
        basis=section_parts.basis_sentence(context, groups),
        data=_factor_table(context, usable, which))


def _costs_table(context: Context, currency: Currency, words: str,
                 groups: Sequence[CellGroup]) -> Table:
    rows = []
    for cell in (cell for group in groups for cell in group.cells if cell.seeds):
        found, form = cell.to_target(currency), CURRENCIES[currency].form
        rows.append((*section_parts.opening(context, cell.label, cell.ranks),
                     reached(f"{currency}_median", found.median, form),
                     reached(f"{currency}_low", found.low, form),
                     reached(f"{currency}_high", found.high, form),
                     number(f"{found.hits} of {found.seeds}", hits=found.hits, seeds=found.seeds)))
    return Table(
        f"{currency}-ranks", f"Data: {words} to the target", "Median over seeds, and their range.",
        (("Optimizer", ""), ("N", "ranks"), ("Median", "of seeds"), ("Smallest", ""),
         ("Largest", ""), ("Hit", "seeds")), tuple(rows))


def _factor_table(context: Context, rows: Sequence[ScaledOptimizer], which: str) -> Table:
    return Table(
        f"{which}-ranks", f"Data: {which} factor", "Of medians over seeds.",
        (("Optimizer", ""), ("N", "ranks"), ("N0", "ranks"), (which.capitalize(), "factor")),
        tuple((*section_parts.opening(context, row.cell.label, row.cell.ranks),
               number(str(row.base.ranks), base_ranks=row.base.ranks),
               number(units.digits(getattr(row.efficiency, which)),
                      **{which: getattr(row.efficiency, which)}))
              for row in rows if row.base))


def _networks(context: Context) -> list[Block]:
    """Return what was modelled: the time to the target on other networks, at other N."""
    known = network_model.load_fabrics()
    networks = network_model.networks([*known], known, 1, next(iter(known)))
    mine = replace(context.gathered, groups=context.groups)
    # Besides other N the largest that was run, whose traffic and samples are those measured.
    largest = max((group.ranks for group in context.groups), default=1)
    sizes = sorted({*modelled_times.RANKS, *([largest] if largest > 1 else [])})
    rows, notes = modelled_times.project_times(
        mine, sizes, networks, list(BatchScaling), Algorithm.best)
    listing = modelled_times.modelled_table(rows)
    alone = [section_parts.Prose(f"{units.capitalized(note)}.") for note in notes
             if "not modelled" in note]
    if listing is None:
        return [*alone]
    speeds = sorted(known, key=lambda name: -known[name].bytes_per_s)
    drawn = _network_figure(context, [
        row for row in rows if row.scaling == context.suite.scaling and row.middle
        and math.isfinite(row.middle.to_target_s)], speeds)
    return [*_pictures(drawn), section_parts.Listing(listing), *alone]


def _network_figure(context: Context, rows: Sequence[ProjectedRow],
                    fabrics: Sequence[str]) -> canvas.Figure | None:
    """Draw the modelled time to the target on each network, a panel for each N.

    Args:
        context: The suite.
        rows: What has a time to the target, of one scaling.
        fabrics: Names of the networks, the fastest first.
    """
    if not rows:
        return None
    times = {(row.ranks, row.cell.label, row.fabric): (row.middle.to_target_s, row.efficiency)
             for row in rows if row.middle}
    sizes = sorted({row.ranks for row in rows})
    labels = [label for label in context.looks if label in {row.cell.label for row in rows}]
    limits = (min(time for time, _ in times.values()) / 1.4,
              max(time for time, _ in times.values()) * 1.4)

    def draw() -> Drawing:
        drawing, panels = panel_rows.stacked_panels([1.25] * len(sizes), left=0.62, right=0.2)
        for axes, ranks in zip(panels, sizes, strict=True):
            for label in labels:
                found = [(at, *times[ranks, label, fabric]) for at, fabric in enumerate(fabrics)
                         if (ranks, label, fabric) in times]
                look = context.looks[label]
                axes.plot([at for at, *_ in found], [time for _, time, _ in found],
                          color=look.color, linewidth=1, linestyle=":")
                for efficiency in ("measured", "assumed"):
                    points = [(at, time) for at, time, how in found if how == efficiency]
                    canvas.draw_marks(axes, [at for at, _ in points], [y for _, y in points],
                                      look, hollow=efficiency == "assumed")
            canvas.scale(axes, "y", units.format_seconds, log=True, limits=limits, ticks=3)
            _place_ranks(axes, fabrics if axes is panels[-1] else [""] * len(fabrics))
            canvas.heading(axes, f"N = {ranks:,}: modelled time to the target")
        return drawing

    last = sizes[-1]
    least = {fabric: min((times[last, label, fabric][0], label) for label in labels
                         if (last, label, fabric) in times)
             for fabric in (fabrics[0], fabrics[-1])}
    said = " and ".join(f"on {fabric} {label}, {units.format_seconds(time)}"
                        for fabric, (time, label) in least.items())
    guessed = any(how == "assumed" for _, how in times.values())
    recorded = [str(ranks) for ranks in sorted({row.cell.ranks for row in rows})]
    return context.figure(
        draw, "modelled", f"time to the target, modelled on other networks, "
        f"{context.suite.scaling} scaling",
        f"Modelled, not measured: nobody ran this. It follows from what a rank computed and sent "
        f"at N = {units.listing(recorded)}; whether optimizers differ is not tested. Least at "
        f"N = {last:,}: {said}. Networks from the fastest to the slowest."
        + (" Open: if the method needed no more samples." if guessed else ""),
        drawn=labels, basis=section_parts.basis_sentence(context, context.groups),
        data=_times_table(context, rows))


def _times_table(context: Context, rows: Sequence[ProjectedRow]) -> Table:
    return Table(
        "modelled-figures", "Data: modelled times", "Medians over seeds. Modelled, not measured.",
        (("Optimizer", ""), ("N", "ranks"), ("Network", ""), ("Time", "to target"),
         ("Samples", "to target")),
        tuple((name(row.cell.label, suite=context.suite.name),
               number(f"{row.ranks:,}", ranks=row.ranks), words(row.fabric, fabric=row.fabric),
               number(row.to_target, to_target_s=row.middle.to_target_s),
               words(row.efficiency, samples_to_target=row.efficiency))
              for row in rows if row.middle))
