"""Section "curves": the validation metric in the course of training, on four axes.

Figures of the validation metric against time, samples, gradient evaluations and bytes.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES
from bench_apts.reports import section_parts
from bench_apts.reports.canvas import Figure, finish, heading, panel, scale
from bench_apts.reports.curve_data import AXES, SINGLE, curve_bands, draw_curve_ends, draw_curves
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import Pictures, Section
from bench_apts.reports.table import Table, Value, name, number
from bench_apts.stats.learning_curves import QUARTILES_FROM, band

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from bench_apts.core.spec import Target
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.curve_data import CurveAxis, CurveBand
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context, Part
    from bench_apts.reports.table import Plain

_METRIC = "validation"
_COLUMNS = (*(axis.column for axis in AXES), _METRIC)

_ROWS = 12
"""About how many rows an optimizer has in the figures' table; tables/curves.csv has all."""

_ACCURACIES = (0.0, 0.2, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998,
               0.999, 0.9999)
"""Where an axis of accuracies may have a tick."""

_SPREAD = 8
"""Ratio of what optimizers need on an axis beyond which it is logarithmic."""


def curve_figures(context: Context, group: CellGroup) -> list[Figure]:
    """Draws one N against each axis on which anything happened; all share one table."""
    runs = [record.header.run_id for cell in group.cells for record in cell.seeds]
    data = context.curves[context.curves["run_id"].isin(runs)]
    found, step = curve_bands(data, context.looks, _METRIC, _COLUMNS)
    if not found:
        return []
    limits = _limits(group, found)
    table = _table(group, found, step)
    shown = [against for against in AXES
             if not (CURRENCIES[against.currency].is_clock and context.crowded[group.ranks])]
    return [_figure(context, group, against, found, step, limits, table) for against in shown
            if any((run[against.column] > 0).any() for one in found for run in one.runs)]


def first_to_target(group: CellGroup, against: CurveAxis) -> list[tuple[float, ReportCell]]:
    """Returns the optimizers whose median seed reaches the target, the first to do so first."""
    found = [(middle.median, cell) for cell in group.cells
             if (middle := cell.to_target(against.currency)).seeds
             and math.isfinite(middle.median)]
    return sorted(found, key=lambda pair: pair[0])


def ties(ranked: Sequence[tuple[float, ReportCell]]) -> list[tuple[float, list[str]]]:
    """Joins the labels of ``leaders`` that need exactly as much, whom no order may tell apart."""
    return [(value, [cell.label for _, cell in equal])
            for value, equal in itertools.groupby(ranked, lambda pair: pair[0])]


def _figure(
    context: Context,
    group: CellGroup,
    against: CurveAxis,
    found: Sequence[CurveBand],
    step: int,
    limits: tuple[float, float],
    table: Table,
) -> Figure:
    target, column = group.suite.target, against.column
    most = [value for one in found
            if (value := max(run[column].max() for run in one.runs)) > 0]
    log = max(most) > _SPREAD * min(most)
    drawing, axes = panel(4.9, 3.0)
    axes.axhline(target.value, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    floor = _floor(target, limits)
    if floor is not None:
        axes.axhline(floor, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
    for course in found:
        look = context.looks[course.label]
        draw_curves(axes, course, column, _METRIC, look, positive=log)
        draw_curve_ends(axes, course, column, _METRIC, look, limits, positive=log)
    share = units.is_share(target, target.metric) and target.direction == "max"
    if share:
        _accuracies(axes, limits)
    else:
        scale(axes, "y", units.digits, limits=limits)
    across = np.concatenate([run[column].to_numpy(float) for one in found for run in one.runs])
    scale(axes, "x", against.form, log=log,
          limits=((across[across > 0].min() / 1.15, max(most) * 1.15) if log
                  else (0, max(most) * 1.03)))
    axes.set_xlabel(against.words)
    unit, title = units.metric_unit(target, target.metric), units.metric_title(target.metric)
    heading(axes, f"validation {title}" + (f" ({unit})" if unit else "")
                  + (", by the logarithm of its errors" if share else ""))
    shown: Mapping[str, Look] = {one.label: context.looks[one.label] for one in found}
    return finish(
        drawing,
        f"{context.prefix}-n{group.ranks}-{target.metric}-{against.slug}",
        f"{group.suite.name}, N = {group.ranks}: validation {title} against {against.words}",
        _caption(group, against, found, step, limits)
        + (
            ""
            if floor is None
            else f" Dotted: {units.format_metric(target, target.metric, floor)}, the "
            "best that any model can expect."
        ),
        shown,
        basis=section_parts.basis_sentence(context, [group]),
        data=table,
    )


def _caption(group: CellGroup, against: CurveAxis, found: Sequence[CurveBand], step: int,
             limits: tuple[float, float]) -> str:
    ranked = first_to_target(group, against)
    text = "No optimizer's median seed reaches the target."
    if ranked:
        (first, labels), *later = ties(ranked)
        text = (f"First to the target (median seed): {units.listing(labels)}, "
                f"{'equally ' if len(labels) > 1 else ''}after "
                f"{against.form(first)}{against.noun}.")
        if later:
            second, others = later[0]
            text = text[:-1] + f"; then {units.listing(others)}, after {against.form(second)}."
            if (CURRENCIES[against.currency].is_clock and group.noise
                    and second <= first * group.noise.factor):
                text += " Times of equal trials are as far apart."
    low, high = limits
    hidden = [one.label for one in found if not any(
        run[_METRIC].between(low, high).any() for run in one.runs)]
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
        text += f" Drawn: every {_nth(step)} evaluation, each first hit and each end."
    return text


def _nth(number: int) -> str:
    """Formats an ordinal number: ``2nd``, ``11th``."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else ending}"


def _limits(group: CellGroup, found: Sequence[CurveBand]) -> tuple[float, float]:
    """Returns limits that cut off the start, so that differences near the target can be seen."""
    target = group.suite.target
    values = np.concatenate([run[_METRIC].to_numpy(float) for one in found for run in one.runs])
    if units.is_share(target, target.metric) and target.direction == "max":
        # Without errors their logarithm has no end: half of the least error stands for none.
        least = 0.5 / group.validation_samples
        most = 1 - max(values.min(), 0.6 * target.value)
        return 1 - 1.2 * max(most, least), 1 - max(1 - values.max(), least) / 1.2
    if target.direction == "max":
        top = max(values.max(), target.value)
        low = max(values.min(), 0.6 * target.value)
    else:
        top = min(values.max(), 3 * target.value)
        low = min(values.min(), target.value)
    if isinstance(target.floor, float):
        low, top = min(low, target.floor), max(top, target.floor)
    room = 0.06 * ((top - low) or 1.0)
    return float(low - room), float(top + room)


def _floor(target: Target, limits: tuple[float, float]) -> float | None:
    """Return the best value that any model can expect, if it is known and within the axis."""
    low, high = limits
    known = target.floor if isinstance(target.floor, float) else math.nan
    return known if low <= known <= high else None


def _accuracies(axes: Axes, limits: tuple[float, float]) -> None:
    """Makes the vertical axis one of accuracies, by the logarithm of the share of errors.

    So that what happens near the target takes as much room as the first steps.
    """
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
    """Median and band at the evaluations that are drawn, thinned once more for reading."""
    target, metric = group.suite.target, group.suite.target.metric
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for course in found:
        breaks.add(len(rows))
        values = band(course.shared[_METRIC])
        middles = {axis: np.median(course.shared[axis.column], axis=1) for axis in AXES}
        total, seeds = course.shared[_METRIC].shape
        every = max(1, -(-total // _ROWS))
        for at in sorted({*range(0, total, every), *([total - 1] if total else [])}):
            numbers: dict[str, Plain] = {
                f"{metric}_median": float(values.middle[at]),
                f"{metric}_low": float(values.low[at]), f"{metric}_high": float(values.high[at])}
            rows.append((
                name(course.label, suite=group.suite.name, ranks=group.ranks),
                *(Value(axis.form(middles[axis][at]),
                        numbers={axis.column: float(middles[axis][at])}) for axis in AXES),
                Value(units.format_metric(target, metric, values.middle[at]), units.between(
                    units.format_metric(target, metric, values.low[at]),
                    units.format_metric(target, metric, values.high[at])),
                    numbers),
                number(str(seeds), seeds=seeds)))
    return Table(
        "median-curves", f"Data of the curves at N = {group.ranks}",
        "Medians over seeds at evaluations that all seeds have, and the band of the metric"
        + (", thinned" if step > 1 or any(
            len(one.shared[_METRIC]) > _ROWS for one in found) else "")
        + "; tables/curves.csv has every evaluation of every seed.",
        (("Optimizer", ""), *(axis.head for axis in AXES),
         ("Validation", units.metric_title(metric)), ("Seeds", "")),
        tuple(rows), frozenset(breaks))


_KEY = ("Thin: single seeds. Bold: their median, with its band. Ring: first hit. Cross: end "
        "without one. Dashed: target.")


SECTION = Section("curves", "Curves", order=30, compares=True)


def part(context: Context) -> Part | None:
    """Returns the section; None while no final training has an evaluation."""
    blocks = tuple(
        Pictures(tuple(drawn), context.size(group.ranks), context.noise(group.ranks), _KEY,
                 wide=True)
        for group in context.groups if (drawn := curve_figures(context, group)))
    if not blocks:
        return None
    return SECTION.part(_finding(context), blocks,
                legend=True)


def _finding(context: Context) -> str:
    hit, total = section_parts.final_hits(context.groups)
    axis = next(axis for axis in AXES if axis.column == (
        "train_s" if context.gathered.device == "cuda" else "samples"))
    firsts = [f"at {context.size(group.ranks)} {units.listing(labels)} ({axis.form(value)})"
              for group in context.groups if (ranked := first_to_target(group, axis))
              for value, labels in ties(ranked)[:1]]
    reached = f"{hit} of {units.plural(total, 'final training')} reached the target"
    if not firsts:
        return f"{reached}{', no median seed among them' if hit else ''}."
    return f"{reached}; first in {axis.label}, by the median seed: {units.listing(firsts)}."
