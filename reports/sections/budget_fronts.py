"""What a whole budget buys: the metric at its end against bytes sent and collective calls."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench_apts.core import units
from bench_apts.reports import table
from bench_apts.reports.canvas import Figure, draw_marks, heading, panel
from bench_apts.reports.cost_tables import UNCOUNTED
from bench_apts.reports.front_drawing import (
    draw_edge,
    scale_to_values,
    scale_with_zero,
    write_names,
)
from bench_apts.reports.section_parts import FIGURE_SIZE, Pictures, Section
from bench_apts.stats.rankings import on_pareto_front
from bench_apts.stats.trial_costs import cost_recorded, final_metric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Target
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Block, Context, Part

SECTION = Section("budget", "At the end of the budget", order=55, evidence=True)

Sent = Literal["bytes", "calls"]
"""What is spent on communication: bytes on the wire, or calls of collectives."""

_AXES: dict[Sent, tuple[str, str, Callable[[float], str]]] = {
    "bytes": ("bytes sent", "ideal wire bytes sent per rank in training", units.format_size),
    "calls": ("collective calls", "collective calls in training", units.format_count)}
"""In titles, below the axis, and the format of its ticks."""

_KEY = ("Large: on the Pareto front, as nobody ends better and sends less. Bars: range over "
        "seeds. Dashed: the edge of what the front beats.")

_REACH = 3
"""How far the axis of the metric goes from the best optimizer, as a multiple of how far off the
middle one is. Without an end, an optimizer that learned nothing would hide the others' order."""

Range = tuple[float, float, float]
"""Median, smallest and largest over seeds."""


@dataclass(frozen=True)
class BudgetPoint:
    """One optimizer whose median seed got to the end of the budget.

    Attributes:
        cell: Its trainings.
        seeds: Those of the configuration that ends best, all of them.
        metric: The target's metric at the end; a seed that did not get there is the worst one
            to the median, and not part of the range.
        test: The test metric of the seeds that measured it.
        sent: Bytes per rank and calls of the seeds that got to the end. NaN: not counted.
        all_reduces: The median number of all-reduces among the calls.
        ended: Seeds that got to the end.
    """

    cell: ReportCell
    seeds: int
    metric: Range
    test: Range | None
    sent: dict[Sent, Range]
    all_reduces: float
    ended: int


@dataclass(frozen=True)
class BudgetFronts:
    """The optimizers of one N that can be drawn.

    Attributes:
        points: In the study's order.
        missing: Those that cannot, each with the reason.
        front: Who is on the front of the metric and each kind of traffic, by label.
    """

    points: tuple[BudgetPoint, ...]
    missing: tuple[str, ...]
    front: dict[Sent, frozenset[str]]


def part(context: Context) -> Part | None:
    """Build the section; None where no training that got to its end sent anything."""
    blocks: list[Block] = []
    found = None
    for group in context.groups:
        fronts = budget_fronts(group)
        if any(point.sent["bytes"][2] for point in fronts.points):
            found = group.ranks, fronts
            data = _table(context, group, fronts)
            blocks.append(Pictures(
                tuple(_figure(context, group, fronts, sent, data) for sent in get_args(Sent)),
                f"N = {group.ranks}", key=_KEY))
    # The largest N tells most; the others follow, folded.
    return (SECTION.part(_finding(context, *found), blocks[-1:], more=blocks[:-1])
            if found else None)


def budget_fronts(group: CellGroup) -> BudgetFronts:
    """Return the optimizers of one N whose metric and traffic at the budget's end are known."""
    points, missing = [], []
    for cell in group.cells:
        point = _point(cell)
        if isinstance(point, str):
            missing.append(f"{cell.label} ({point})")
        else:
            points.append(point)
    worse = -1 if group.suite.target.direction == "max" else 1
    return BudgetFronts(tuple(points), tuple(missing), {sent: frozenset(
        point.cell.label for point, front in zip(points, on_pareto_front(
            [(worse * p.metric[0], p.sent[sent][0]) for p in points]), strict=True) if front)
        for sent in get_args(Sent)})


def _point(cell: ReportCell) -> BudgetPoint | str:
    """Return one optimizer's numbers, or why there are none."""
    seeds = cell.accuracy_seeds
    ended = [(record, value) for record in seeds if (value := final_metric(record)) is not None]
    if 2 * len(ended) <= len(seeds):
        return f"{len(ended)} of {len(seeds)} got to the end" if seeds else "no final training"
    worst = -math.inf if cell.suite.target.direction == "max" else math.inf
    values = [value for _, value in ended]
    median = statistics.median(values + [worst] * (len(seeds) - len(ended)))
    done = [record for record, _ in ended]
    sent: dict[Sent, Range] = {
        "bytes": _range([cost_recorded(record)["wire_bytes"] for record in done]),
        "calls": _range([_calls(record) for record in done])}
    if math.isnan(sent["bytes"][0]):
        return f"bytes {UNCOUNTED}"
    return BudgetPoint(
        cell, len(seeds), (median, min(values), max(values)),
        _range(cell.test) if cell.test else None, sent,
        statistics.median(_calls(record, "all_reduce") for record in done), len(ended))


def _range(values: Sequence[float]) -> Range:
    """Return median, smallest and largest; NaN where one is not known."""
    if any(map(math.isnan, values)):
        return math.nan, math.nan, math.nan
    return statistics.median(values), min(values), max(values)


def _calls(record: TrialRecord, collective: str = "") -> float:
    """Count the method's calls of a collective, or of all, to the end of a training."""
    comm = record.evals[-1].comm
    return float(sum(traffic.calls for phase in ("train", "validate")
                     for name, traffic in comm.get(phase, {}).items()
                     if collective in ("", name)))


def _finding(context: Context, ranks: int, fronts: BudgetFronts) -> str:
    """Say who ends with the highest median and who sends least at the largest N."""
    target = context.suite.target
    pick = max if target.direction == "max" else min
    most = pick(point.metric[0] for point in fronts.points)
    first = [point for point in fronts.points if point.metric[0] == most]
    low, high = (end(point.metric[at] for point in first) for at, end in ((1, min), (2, max)))
    near = [point.cell.label for point in fronts.points if point not in first
            and point.metric[1] <= high and point.metric[2] >= low]
    least = min(fronts.points, key=lambda point: point.sent["bytes"][0])
    names = units.listing([point.cell.label for point in first])
    ends = "ends" if len(first) == 1 else "end"
    return (f"At N = {ranks}, {names} {ends} with the {'high' if pick is max else 'low'}est "
            f"median, {units.format_metric(target, target.metric, most)}"
            + (f", in whose range seeds of {units.listing(near)} end as well" if near else "")
            + f". {least.cell.label} sends least: {units.format_size(least.sent['bytes'][0])} per "
            f"rank, in {units.format_count(least.sent['calls'][0])} collective calls.")


def _figure(context: Context, group: CellGroup, fronts: BudgetFronts, sent: Sent,
            data: table.Table) -> Figure:
    """Draw the metric against bytes or calls, and the front."""
    target, (noun, words, form) = context.suite.target, _AXES[sent]
    above, names = target.direction == "max", fronts.front[sent]
    metric = f"{target.split} {units.metric_title(target.metric)}"
    better, worse = (max, min) if above else (min, max)
    end = worse(_axis_end(fronts.points, above),
                *(p.metric[0] for p in fronts.points if p.cell.label in names))
    inside = [p for p in fronts.points if better(p.metric[0], end) == p.metric[0]]
    front = sorted((p.sent[sent][0], p.metric[0], p.cell.label)
                   for p in fronts.points if p.cell.label in names)

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE, left=0.62)
        place = scale_with_zero(
            axes, [value for p in fronts.points for value in p.sent[sent]], form)
        scale_to_values(axes, "y", [better(value, end) for p in inside for value in p.metric],
                        lambda value: units.format_metric(target, target.metric, value),
                        above=above)
        for point in fronts.points:
            look = context.looks[point.cell.label]
            (x, least, most), (y, low, high) = map(place, point.sent[sent]), point.metric
            on_front = point.cell.label in names
            style: dict[str, Any] = {"size": 9 if on_front else 6,
                                     "alpha": 1 if on_front else 0.75}
            if point in inside:
                for xs, ys in (((least, most), (y, y)), ((x, x), (low, high))):
                    axes.plot(xs, ys, color=look.color, linewidth=1, alpha=0.5)
            else:
                y, style = worse(axes.get_ylim()), {"hollow": True, "clip_on": False}
            draw_marks(axes, [x], [y], look, **style)
        write_names(axes, [(label, (place(x), y)) for x, y, label in front], above=above)
        draw_edge(axes, [(place(x), y) for x, y, _ in front], above=above)
        axes.set_xlabel(words)
        heading(axes, f"{metric} at the end of the budget")
        return drawing

    beyond = [f"{p.cell.label} ({units.format_metric(target, target.metric, p.metric[0])})"
              for p in fronts.points if p not in inside]
    budget = units.trim(units.format_count(context.suite.budget.samples))
    return context.figure(
        draw, f"budget-{sent}", f"{metric} at the end of the budget against {noun}",
        f"Pareto-optimal: {units.listing([label for *_, label in front])}."
        + (f" Open, worse than the axis shows: {units.listing(beyond)}." if beyond else "")
        + (f" Not drawn: {units.listing(fronts.missing)}." if fronts.missing else ""),
        ranks=group.ranks, drawn=[p.cell.label for p in fronts.points],
        basis=f"Medians over seeds of the configuration that ended best, after {budget} samples.",
        data=data)


def _axis_end(points: Sequence[BudgetPoint], above: bool) -> float:
    """Return the worst value that the axis of the metric has to show."""
    medians = [point.metric[0] for point in points]
    best = (max if above else min)(medians)
    reach = _REACH * (best - statistics.median(medians))
    return best - reach if reach else (min if above else max)(medians)


def _table(context: Context, group: CellGroup, fronts: BudgetFronts) -> table.Table:
    target = context.suite.target
    metric = units.metric_title(target.metric)
    tests = sorted({units.metric_title(p.cell.test_metric) for p in fronts.points if p.test})
    return table.Table(
        "budget-front", "Data: the end of the budget",
        "Medians and ranges over the final seeds of the configuration that ended best. Bytes and "
        "calls are those of training and of what a method sends to be evaluated.",
        (("Optimizer", ""), ("N", "ranks"), (units.capitalized(target.split), metric),
         ("Test", ", ".join(tests)), ("Bytes", "sent per rank"), ("Calls", "of collectives"),
         ("All-reduces", ""), ("Front", "with bytes"), ("Front", "with calls"),
         ("Seeds", "at the end")),
        tuple(_row(context, group.ranks, target, point, fronts) for point in fronts.points))


def _row(context: Context, ranks: int, target: Target, point: BudgetPoint,
         fronts: BudgetFronts) -> tuple[table.Value, ...]:
    cell = point.cell
    on_front = {sent: cell.label in names for sent, names in fronts.front.items()}

    def spread(column: str, values: Range | None, form: Callable[[float], str]) -> table.Value:
        if values is None:
            return table.known(f"{column}_median", None, form)
        low, high = map(form, values[1:])
        shown = units.between(low, high) if low != high else ""
        return table.number(form(values[0]), shown, **{
            f"{column}_{which}": value
            for which, value in zip(("median", "low", "high"), values, strict=True)})

    return (
        table.name(cell.label, badge=cell.badge, suite=context.suite.name),
        table.number(str(ranks), ranks=ranks),
        spread("validation", point.metric,
               lambda value: units.format_metric(target, target.metric, value)),
        spread("test", point.test,
               lambda value: units.format_metric(target, cell.test_metric, value)),
        spread("wire_bytes", point.sent["bytes"], units.format_size),
        spread("calls", point.sent["calls"], units.format_count),
        table.number(units.format_count(point.all_reduces), all_reduces=point.all_reduces),
        *(table.words("yes" if front else "no", "", **{f"on_{sent}_front": front})
          for sent, front in on_front.items()),
        table.number(f"{point.ended} of {point.seeds}", ended=point.ended, seeds=point.seeds))
