"""Curves: the validation metric in the course of training, on up to four axes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, headline
from bench_apts.reports import canvas, section_parts
from bench_apts.reports.curve_data import AXES, SINGLE, curve_bands
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import FIGURE_SIZE, Pictures, Section
from bench_apts.reports.table import Table, Value, grouped_table, known, name, number
from bench_apts.stats.learning_curves import QUARTILES_FROM, band

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.core.spec import Target
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.curve_data import CurveAxis, CurveBand
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context, Part

SECTION = Section("curves", "Curves", order=30, compares=True, evidence=True)

_METRIC = "validation"
_COLUMNS = (*(axis.column for axis in AXES), _METRIC)

_ROWS = 12
"""About how many rows an optimizer has in the figures' table; tables/curves.csv has all."""

_ACCURACIES = (0.0, 0.2, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998,
               0.999, 0.9999)
"""Where an axis of accuracies may have a tick."""

_SPREAD = 8
"""Ratio of what optimizers need on an axis beyond which it is logarithmic."""

_KEY = ("Thin: single seeds. Bold: their median, with its band. Ring: first hit. Cross: end "
        "without one. Dashed: target.")


def part(context: Context) -> Part | None:
    """Build the section; None while no final training has an evaluation."""
    axes = sorted(AXES, key=lambda axis: axis.currency not in _firsts(context))
    drawn = sorted((figure for group in context.groups for figure in _figures(context, group)),
                   key=lambda figure: [axis.label for axis in axes].index(figure.choice))
    noises = [f"{units.times(group.noise.factor)} at {context.size(group.ranks)}"
              for group in context.groups if group.noise]
    key = _KEY
    if noises:
        key += f" Times of equal trials differ by up to {units.listing(noises)}."
    return (SECTION.part(_finding(context), [Pictures(tuple(drawn), key=key)])
            if drawn else None)


def _firsts(context: Context) -> tuple[Currency, ...]:
    """Return the currencies whose axis is shown first: the headline's, of GPUs their time."""
    return headline(context.gathered.device), *(
        ("train_s",) if context.gathered.device == "cuda" else ())


def _finding(context: Context) -> str:
    hit, total = section_parts.final_hits(context.groups)
    axis = next(axis for axis in AXES if axis.currency in _firsts(context))
    firsts = [f"at {context.size(group.ranks)} {units.listing(labels)} ({axis.form(value)})"
              for group in context.groups for value, labels in _order(group, axis)[:1]]
    said = f"{hit} of {units.plural(total, 'final training')} reached the target"
    if not firsts:
        return f"{said}{', no median seed among them' if hit else ''}."
    return f"{said}; first in {axis.label}, by the median seed: {units.listing(firsts)}."


def _figures(context: Context, group: CellGroup) -> list[canvas.Figure]:
    """Draw one N against each axis on which anything happened; all share one table."""
    runs = [record.header.run_id for cell in group.cells for record in cell.seeds]
    data = context.curves[context.curves["run_id"].isin(runs)]
    found, step = curve_bands(data, context.looks, _METRIC, _COLUMNS)
    if not found:
        return []
    limits, table = _limits(group, found), _table(group, found, step)
    return [_figure(context, group, axis, found, step, limits, table) for axis in AXES
            if not (CURRENCIES[axis.currency].is_clock and context.crowded[group.ranks])
            and any((run[axis.column] > 0).any() for one in found for run in one.runs)]


def _order(group: CellGroup, axis: CurveAxis) -> list[tuple[float, list[str]]]:
    """Return what the median seed of each optimizer needs to the target, the least first.

    Those that need exactly as much stand together, as no order may tell them apart.
    """
    costs: list[tuple[float, ReportCell]] = sorted(
        ((middle.median, cell) for cell in group.cells
         if (middle := cell.to_target(axis.currency)).seeds and math.isfinite(middle.median)),
        key=lambda pair: pair[0])
    return [(value, [cell.label for _, cell in equal])
            for value, equal in itertools.groupby(costs, lambda pair: pair[0])]


def _figure(context: Context, group: CellGroup, axis: CurveAxis, found: Sequence[CurveBand],
            step: int, limits: tuple[float, float], table: Table) -> canvas.Figure:
    target, column = group.suite.target, axis.column
    across = np.concatenate([run[column].to_numpy(float) for one in found for run in one.runs])
    most = [value for one in found
            if (value := max(run[column].max() for run in one.runs)) > 0]
    log = max(most) > _SPREAD * min(most)
    floor = target.floor if isinstance(target.floor, float) else math.nan
    floored = limits[0] <= floor <= limits[1]
    title = units.metric_title(target.metric)

    def draw() -> Drawing:
        from bench_apts.reports.axis_ticks import offer_scale

        drawing, axes = canvas.panel(*FIGURE_SIZE)
        axes.axhline(target.value, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
        if floored:
            axes.axhline(floor, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
        # A logarithmic axis has no place for evaluations before the first step.
        _draw_curves(axes, found, column, context, beyond=0.0 if log else -math.inf)
        for one in found:
            draw_ends(axes, one, column, context.looks[one.label], limits,
                      beyond=0.0 if log else -math.inf)
        share = units.is_share(target, target.metric) and target.direction == "max"
        if share:
            _scale_accuracies(axes, limits)
        else:
            canvas.scale(axes, "y", units.digits, limits=limits)
        ends = {True: (float(across[across > 0].min()) / 1.15, max(most) * 1.15),
                False: (0.0, max(most) * 1.03)}
        canvas.scale(axes, "x", axis.form, log=log, limits=ends[log])
        axes.set_xlabel(axis.words)
        unit = units.metric_unit(target, target.metric)
        canvas.heading(axes, f"validation {title}" + (f" ({unit})" if unit else "")
                       + (", by the logarithm of its errors" if share else ""))
        offer_scale(axes, axis.form, log=not log, limits=ends[not log])
        return drawing

    dotted = (f" Dotted: {units.format_metric(target, target.metric, floor)}, the best that any "
              "model can expect." if floored else "")
    return context.figure(
        draw, f"{target.metric}-{axis.slug}", f"validation {title} against {axis.words}",
        _caption(group, axis, found, step, limits) + dotted, ranks=group.ranks,
        drawn=[one.label for one in found], data=table, choice=axis.label,
        basis=section_parts.basis_sentence(context, [group]))


def _draw_curves(axes: Axes, found: Sequence[CurveBand], column: str, context: Context,
                 beyond: float) -> None:
    """Draw the first seeds thin, the band of all, and their median where all have evaluations."""
    middles = []
    for one in found:
        look = context.looks[one.label]
        points = [run[[column, _METRIC]].to_numpy(float) for run in one.runs]
        canvas.draw_seeds(axes, [run[run[:, 0] > beyond] for run in points], look)
        across, values = np.median(one.shared[column], axis=1), band(one.shared[_METRIC])
        shown = across > beyond
        if one.shared[_METRIC].shape[1] > 1:
            axes.fill_between(across[shown], values.low[shown], values.high[shown],
                              color=look.color, alpha=0.1, linewidth=0)
        middles.append(pd.DataFrame({"optimizer": one.label, "across": across[shown],
                                     _METRIC: values.middle[shown]}))
    canvas.draw_lines(axes, pd.concat(middles), "across", _METRIC, context.looks, markersize=4,
                      markevery=0.15)


def draw_ends(axes: Axes, one: CurveBand, column: str, look: Look, limits: tuple[float, float],
              beyond: float = -math.inf) -> None:
    """Ring each seed's first hit, and cross the last evaluation of a seed without one.

    The cross of a seed whose metric lies beyond the axis stands at the axis' end.

    Args:
        axes: Where.
        one: An optimizer's seeds.
        column: What stands across.
        look: The optimizer's.
        limits: Ends of the vertical axis.
        beyond: What stands no further to the right than this is left out.
    """
    hits: list[tuple[float, float]] = []
    misses: list[tuple[float, float]] = []
    for run in one.runs:
        across, values = run[column].to_numpy(float), run[_METRIC].to_numpy(float)
        hit = run["hit"].to_numpy(bool)
        if hit.any():
            hits += zip(across[hit], values[hit], strict=True)
        else:
            misses.append((across[-1], min(max(values[-1], limits[0]), limits[1])))
    for points, ring in ((hits, True), (misses, False)):
        shown = [point for point in points if point[0] > beyond]
        if shown:
            canvas.draw_marks(axes, [x for x, _ in shown], [y for _, y in shown], look, zorder=4,
                              size=8 if ring else 7, marker="" if ring else "x", hollow=ring,
                              clip_on=ring)


def _caption(group: CellGroup, axis: CurveAxis, found: Sequence[CurveBand], step: int,
             limits: tuple[float, float]) -> str:
    text = "No optimizer's median seed reaches the target."
    ranked = _order(group, axis)
    if ranked:
        (first, labels), *later = ranked
        text = (f"First to the target (median seed): {units.listing(labels)}, "
                f"{'equally ' if len(labels) > 1 else ''}after {axis.form(first)}{axis.noun}.")
        if later:
            second, others = later[0]
            text = text[:-1] + f"; then {units.listing(others)}, after {axis.form(second)}."
            if (CURRENCIES[axis.currency].is_clock and group.noise
                    and second <= first * group.noise.factor):
                text += " Times of equal trials are as far apart."
    hidden = [one.label for one in found if not any(
        run[_METRIC].between(*limits).any() for run in one.runs)]
    if hidden:
        text += f" Beyond the axis: {units.listing(hidden)}."
    seeds = [one.shared[_METRIC].shape[1] for one in found]
    if max(seeds) > 1:
        text += (" Band: quartiles over seeds." if min(seeds) >= QUARTILES_FROM
                 else " Band: smallest to largest of the seeds." if max(seeds) < QUARTILES_FROM
                 else f" Band: quartiles over seeds, of fewer than {QUARTILES_FROM} all.")
    if max(seeds) > SINGLE:
        text += f" Single: the first {SINGLE} seeds of each."
    if step > 1:
        text += f" Drawn: every {_ordinal(step)} evaluation, each first hit and each end."
    return text


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else ending}"


def _limits(group: CellGroup, found: Sequence[CurveBand]) -> tuple[float, float]:
    """Return limits that cut off the start, so that differences near the target can be seen."""
    target = group.suite.target
    values = np.concatenate([run[_METRIC].to_numpy(float) for one in found for run in one.runs])
    if units.is_share(target, target.metric) and target.direction == "max":
        # Without errors their logarithm has no end: half of the least error stands for none.
        least = 0.5 / group.validation_samples
        most = 1 - max(values.min(), 0.6 * target.value)
        return 1 - 1.2 * max(most, least), 1 - max(1 - values.max(), least) / 1.2
    if target.direction == "max":
        low, top = max(values.min(), 0.6 * target.value), max(values.max(), target.value)
    else:
        low, top = min(values.min(), target.value), min(values.max(), 3 * target.value)
    if isinstance(target.floor, float):
        low, top = min(low, target.floor), max(top, target.floor)
    room = 0.06 * ((top - low) or 1.0)
    return float(low - room), float(top + room)


def _scale_accuracies(axes: Axes, limits: tuple[float, float]) -> None:
    """Make the vertical axis one of accuracies, by the logarithm of the share of errors.

    So that what happens near the target takes as much room as the first steps.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axes.set_yscale("function", functions=(
        lambda value: -np.log10(np.maximum(1 - np.asarray(value, float), 1e-9)),
        lambda height: 1 - 10.0 ** -np.asarray(height, float)))
    axes.set_ylim(*limits)
    axes.set_ylabel("")
    low, high = (math.log10(1 - end) for end in limits)
    ticks: list[float] = []
    for tick in _ACCURACIES:
        far = not ticks or math.log10((1 - ticks[-1]) / (1 - tick)) > 0.1 * (low - high)
        if limits[0] <= tick <= limits[1] and far:
            ticks.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(
        lambda value, _: units.trim(units.format_percent(value, 2))))


def _table(group: CellGroup, found: Sequence[CurveBand], step: int) -> Table:
    """Return median and band at the evaluations that are drawn, thinned once more for reading."""
    thinned = step > 1 or any(len(one.shared[_METRIC]) > _ROWS for one in found)
    return grouped_table(
        "median-curves", f"Data of the curves at N = {group.ranks}",
        "Medians over seeds at evaluations that all seeds have, and the band of the metric"
        f"{', thinned' if thinned else ''}; tables/curves.csv has every evaluation of every seed.",
        (("Optimizer", ""), *(axis.head for axis in AXES),
         ("Validation", units.metric_title(group.suite.target.metric)), ("Seeds", "")),
        (_rows(group, group.suite.target, one) for one in found))


def _rows(group: CellGroup, target: Target, one: CurveBand) -> Iterator[tuple[Value, ...]]:
    metric, values = target.metric, band(one.shared[_METRIC])
    middles = {axis: np.median(one.shared[axis.column], axis=1) for axis in AXES}
    total, seeds = one.shared[_METRIC].shape
    every = max(1, -(-total // _ROWS))
    for at in sorted({*range(0, total, every), *([total - 1] if total else [])}):
        middle, low, high = (float(each[at]) for each in values)
        yield (
            name(one.label, suite=group.suite.name, ranks=group.ranks),
            *(known(axis.column, float(middles[axis][at]), axis.form) for axis in AXES),
            number(units.format_metric(target, metric, middle),
                   units.between(units.format_metric(target, metric, low),
                                 units.format_metric(target, metric, high)),
                   **{f"{metric}_median": middle, f"{metric}_low": low, f"{metric}_high": high}),
            number(str(seeds), seeds=seeds))
