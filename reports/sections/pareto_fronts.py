"""Trade-offs: the Pareto fronts of time and bytes, and of time and memory, at each N."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES
from bench_apts.reports import section_parts
from bench_apts.reports.canvas import Figure, draw_marks, heading, panel
from bench_apts.reports.cells import memory
from bench_apts.reports.front_drawing import draw_edge, scale_to_values, write_names
from bench_apts.reports.section_parts import FIGURE_SIZE, Pictures, Section, opening
from bench_apts.reports.table import Table, Value, hits_of_trials, number, words
from bench_apts.stats.rankings import on_pareto_front

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context, Part

FrontCost = Literal["bytes", "memory"]
FrontAxis = Literal["train_s", "samples"]

SECTION = Section("pareto", "Trade-offs", order=50, compares=True)

_KEY = ("Large: on the Pareto front, as nobody is better in both. Bars: range over seeds. Dashed: "
        "the edge of what the front beats.")

_WORDS: dict[FrontCost, str] = {"bytes": "ideal wire bytes per rank to the target",
                                "memory": "memory of a rank"}


@dataclass(frozen=True)
class FrontPoint:
    """One optimizer that reached the target with its median seed.

    Attributes:
        cell: Its trainings.
        across: Training seconds or samples to the target: median, smallest and largest of the
            seeds that hit.
        other: Bytes sent to the target likewise; or peak memory, whose first number is the
            largest of all seeds, as a machine must have it.
        front: No other optimizer is as good in both numbers and better in one.
        beaten_by: Labels of those that are, if any.
        seeds_on_front: Repetitions in which its seed alone would be on the front of all seeds
            of that repetition.
    """

    cell: ReportCell
    across: tuple[float, float, float]
    other: tuple[float, float, float]
    front: bool
    beaten_by: tuple[str, ...]
    seeds_on_front: int


def part(context: Context) -> Part | None:
    """Build the section; None where no optimizer's median seed reached the target."""
    blocks, sentences = [], []
    for group in context.groups:
        drawn: list[Figure] = []
        fronts: dict[str, list[str]] = {}
        for against in get_args(FrontCost):
            found = front_points(group, against)
            if picture := _figure(context, group, against, found):
                drawn.append(picture)
                front = units.listing([p.cell.label for p in found if p.front])
                fronts.setdefault(front, []).append(
                    f"in {'samples' if _front_axis(group) == 'samples' else 'time'} and {against}")
        if drawn:
            sentences.append(f"at {context.size(group.ranks)} " + ", ".join(
                f"{names} {' and '.join(pairs)}" for names, pairs in fronts.items()))
            blocks.append(Pictures(tuple(drawn), context.size(group.ranks),
                                   context.noise(group.ranks), _KEY))
    if not blocks:
        return None
    return SECTION.part(f"Pareto-optimal: {'; '.join(sentences)}.", blocks)


def _front_axis(group: CellGroup) -> FrontAxis:
    """Return what stands across: samples where ranks shared cores, else training seconds."""
    return "samples" if group.crowded else "train_s"


def front_points(group: CellGroup, against: FrontCost) -> list[FrontPoint]:
    """Return the optimizers whose median seed hit and whose costs are known, as points."""
    which = _front_axis(group)
    found = [(cell, _range(cell, which), _range(cell, against)) for cell in group.cells
             if cell.seeds and math.isfinite(cell.to_target(which).median)
             and not (against == "memory" and not cell.memory)
             and not (against == "bytes" and math.isnan(cell.to_target("wire_bytes").median))]
    pairs = [(across[0], other[0]) for _, across, other in found]
    single = _seeds_on_front(group, against)
    return [FrontPoint(cell, across, other, front, tuple(
        rival.label for (rival, *_), pair in zip(found, pairs, strict=True)
        if pair != mine and not on_pareto_front([mine, pair])[0]), single.get(cell.label, 0))
        for (cell, across, other), mine, front in zip(
            found, pairs, on_pareto_front(pairs), strict=True)]


def _range(cell: ReportCell, what: FrontCost | FrontAxis) -> tuple[float, float, float]:
    values = [value for value in _values(cell, what) if math.isfinite(value)]
    first = (max(values) if what == "memory" else
             cell.to_target("wire_bytes" if what == "bytes" else what).median)
    return first, min(values), max(values)


def _values(cell: ReportCell, what: FrontCost | FrontAxis) -> Sequence[float]:
    """Return one number for each seed, infinite where it missed or was not measured."""
    if what == "memory":
        return [float(memory(record) or math.inf) for record in cell.seeds]
    costs = [outcome.cost["wire_bytes" if what == "bytes" else what] for outcome in cell.finals]
    return [math.inf if math.isnan(cost) else cost for cost in costs]


def _seeds_on_front(group: CellGroup, against: FrontCost) -> dict[str, int]:
    """Count for each optimizer the repetitions in which its seed is on the front."""
    which = _front_axis(group)
    runs: dict[int, list[tuple[str, tuple[float, float]]]] = {}
    for cell in group.cells:
        for record, first, other in zip(cell.seeds, _values(cell, which),
                                        _values(cell, against), strict=True):
            runs.setdefault(record.trial.repetition, []).append((cell.label, (first, other)))
    counted: dict[str, int] = {}
    for entries in runs.values():
        for (label, _), front in zip(entries, on_pareto_front([pair for _, pair in entries]),
                                     strict=True):
            counted[label] = counted.get(label, 0) + front
    return counted


def _figure(context: Context, group: CellGroup, against: FrontCost,
            points: Sequence[FrontPoint]) -> Figure | None:
    """Draw time or samples against bytes or memory, and the front; None without points."""
    if not any(point.other[0] for point in points):
        return None
    across = CURRENCIES[_front_axis(group)]
    noun, form = across.words, across.form
    front = sorted((p for p in points if p.front), key=lambda p: p.across[0])

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE, left=0.62)
        for point in points:
            look = context.looks[point.cell.label]
            (x, least, most), (y, low, high) = point.across, point.other
            for xs, ys in (((least, most), (y, y)), ((x, x), (low, high))):
                axes.plot(xs, ys, color=look.color, linewidth=1, alpha=0.5)
            draw_marks(axes, [x], [y], look, size=9 if point.front else 6,
                       alpha=1 if point.front else 0.75)
        scale_to_values(axes, "x", [value for p in points for value in p.across], form)
        scale_to_values(axes, "y", [value for p in points for value in p.other], units.format_size)
        write_names(axes, [(p.cell.label, (p.across[0], p.other[0])) for p in front])
        draw_edge(axes, [(p.across[0], p.other[0]) for p in front])
        axes.set_xlabel(f"{noun} to the target")
        heading(axes, _WORDS[against])
        return drawing

    held = (" Memory is that of the tensors of model and optimizer, not of activations."
            if against == "memory" and context.gathered.device == "cpu" else "")
    return context.figure(
        draw, f"front-{against}", f"{noun} to the target against {_WORDS[against]}",
        _caption(group, front) + held, ranks=group.ranks,
        drawn=[p.cell.label for p in points],
        basis=section_parts.basis_sentence(context, [group]),
        data=_table(context, group, against, points))


def _caption(group: CellGroup, front: Sequence[FrontPoint]) -> str:
    text = f"Pareto-optimal: {units.listing([p.cell.label for p in front])}."
    missed = [f"{cell.label} ({hits_of_trials(sum(o.hit for o in cell.finals), len(cell.seeds))})"
              for cell in group.cells
              if cell.seeds and cell.to_target("train_s").median == math.inf]
    return text + (f" Not drawn, as the median seed missed: {units.listing(missed)}."
                   if missed else "")


def _table(context: Context, group: CellGroup, against: FrontCost,
           points: Sequence[FrontPoint]) -> Table:
    across = CURRENCIES[_front_axis(group)]
    noun, form = across.words, across.form
    largest = ", and the largest memory of any seed" if against == "memory" else ""
    return Table(
        f"front-{against}", f"Data: {noun} and {against}",
        f"Medians over seeds{largest}. Seeds on the front: of the seeds of one repetition, how "
        "often this one's was beaten by nobody.",
        (("Optimizer", ""), ("N", "ranks"), (units.capitalized(noun), "to target"),
         ("Bytes", "per rank to target") if against == "bytes" else ("Memory", "of a rank"),
         ("Front", ""), ("Seeds", "on the front"), ("Beaten by", "in both")),
        tuple(_row(context, against, point, form) for point in points))


def _row(context: Context, against: FrontCost, point: FrontPoint,
         form: Callable[[float], str]) -> tuple[Value, ...]:
    cell, (across, *spread), (other, *ends) = point.cell, point.across, point.other
    beaten = ", ".join(point.beaten_by)
    return (
        *opening(context, cell.label, cell.ranks),
        number(form(across), units.between(*map(form, spread)),
               train_s_to_target=cell.to_target("train_s").median,
               samples_to_target=cell.to_target("samples").median),
        number(units.format_size(other), units.between(*map(units.format_size, ends)),
               **{"wire_bytes_to_target" if against == "bytes" else "memory_bytes": other}),
        words("yes" if point.front else "no", on_front=point.front),
        number(f"{point.seeds_on_front} of {len(cell.seeds)}",
               seeds_on_front=point.seeds_on_front, seeds=len(cell.seeds)),
        words(beaten or "nobody", beaten_by=beaten))
