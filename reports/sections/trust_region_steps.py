"""Trust region: radius, acceptance, bounds, predicted against actual reduction, and passes.

Figures of trust-region methods: radius, accepted share, ratios, predicted against actual.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench_apts.core import units
from bench_apts.reports import curve_data
from bench_apts.reports.canvas import Figure, finish, heading, panel, scale
from bench_apts.reports.curve_data import SINGLE
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import Block, Listing, Pictures, Prose, Section
from bench_apts.reports.table import MOST_ROWS, Table, Value, name, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes

    from bench_apts.reports.cells import CellGroup
    from bench_apts.reports.curve_data import StepTally
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context, Part

class _Quantity(NamedTuple):
    """What is drawn against samples; ``limits`` None: log scale over what there is."""

    column: str
    words: str
    form: Callable[[float], str]
    limits: tuple[float, float] | None
    line: float | None = None


def _share(value: float) -> str:
    return units.format_percent(value, 0)


_AGAINST_SAMPLES = (
    _Quantity("radius", "trust-region radius", units.digits, None),
    _Quantity("accepted", "share of judged steps accepted", _share, (-0.03, 1.03)),
    _Quantity("rho", "acceptance ratio: actual over predicted reduction", units.digits,
              (-1.0, 2.5), 1.0),
    _Quantity("best_length", "best length of a step, in steps", units.digits, (-0.1, 4.0), 1.0),
    _Quantity("at_bound", "share of judged steps with the radius at a bound", _share,
              (-0.03, 1.03)),
)


_FIRST = f" Single: the first {SINGLE} seeds of each."

_TABLED: dict[str, Callable[[float], str]] = {
    "radius": units.digits, "accepted": _share, "rho": units.digits,
    "best_length": units.digits, "predicted_reduction": units.digits,
    "actual_reduction": units.digits, "at_bound": _share}
"""Columns of the data table, in the order of its titles."""


def trust_figures(context: Context, group: CellGroup, rows: pd.DataFrame) -> list[Figure]:
    """Draws what the optimizers at one N told; a quantity that none told has no figure.

    Args:
        context: The suite.
        group: N.
        rows: See ``judged.frame``.
    """
    data = _figure_table(context, group, rows)
    found = [_against_samples(context, group, rows, quantity, data)
             for quantity in _AGAINST_SAMPLES]
    found.append(_predicted(context, group, rows, data))
    return [figure for figure in found if figure]


def _against_samples(context: Context, group: CellGroup, rows: pd.DataFrame, what: _Quantity,
                     data: Table) -> Figure | None:
    shown = rows.dropna(subset=[what.column])
    if what.limits is None:
        shown = shown[shown[what.column] > 0]
    if shown.empty or (what.column == "at_bound" and not shown["at_bound"].any()):
        return None
    drawing, axes = panel()
    values = shown[what.column]
    limits = what.limits or (values.min() / 1.4, values.max() * 1.4)
    present = _present(shown, context.looks)
    for label, look in present.items():
        _lines(axes, shown[shown["optimizer"] == label], what.column, look, limits)
    if what.line is not None:
        axes.axhline(what.line, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
    scale(axes, "x", units.format_count, limits=(0, shown["samples"].max() * 1.03))
    scale(axes, "y", what.form, log=what.limits is None, limits=limits)
    axes.set_xlabel("samples, all ranks together")
    heading(axes, what.words)
    ends = shown.groupby(["optimizer", "run_id"])[what.column].last()
    told = [f"{label} {what.form(ends[label].median())}" for label in present]
    beyond = int(((values < limits[0]) | (values > limits[1])).sum())
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-{what.column.replace('_', '-')}",
        f"{context.suite.name}, N = {group.ranks}: {what.words} against samples",
        f"At the end (median over seeds): {units.listing(told)}."
        + (f" {beyond} of {units.plural(len(values), 'value')} beyond the axis "
           "are drawn at its end." if beyond else "")
        + (_FIRST if any(len(ends[label]) > SINGLE for label in present) else ""),
        present, basis=_basis(context, shown), data=data)


def _predicted(context: Context, group: CellGroup, rows: pd.DataFrame,
               data: Table) -> Figure | None:
    """Draws the actual against the predicted reduction; what rose stands at the lower edge."""
    shown = rows.dropna(subset=["predicted_reduction", "actual_reduction"])
    shown = shown[shown["predicted_reduction"] > 0]
    fell = shown[shown["actual_reduction"] > 0]
    if fell.empty:
        return None
    every = [*fell["predicted_reduction"], *fell["actual_reduction"]]
    low, high = min(every) / 1.6, max(*every, *shown["predicted_reduction"]) * 1.6
    drawing, axes = panel()
    present = _present(shown, context.looks)
    crowd = False
    for label, look in present.items():
        mine = shown[shown["optimizer"] == label]
        seeds = mine["run_id"].unique()
        crowd |= len(seeds) > SINGLE
        mine = mine[mine["run_id"].isin(seeds[:SINGLE])]
        axes.plot(mine["predicted_reduction"].clip(lower=low),
                  mine["actual_reduction"].clip(lower=low), linestyle="", marker=look.marker,
                  markersize=4, color=look.color, alpha=0.6, markeredgewidth=0, clip_on=False)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for which in ("x", "y"):
        scale(axes, which, units.digits, log=True, limits=(low, high), ticks=4)
    axes.set_xlabel("predicted reduction of the loss")
    heading(axes, "actual reduction of the loss")
    better = int((fell["actual_reduction"] >= fell["predicted_reduction"]).sum())
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-predicted-actual",
        f"{context.suite.name}, N = {group.ranks}: actual against predicted reduction",
        f"Of {units.plural(len(shown), 'step')}, the last judged one before each evaluation, "
        f"{len(fell)} lowered the loss, {better} "
        "by at least what was predicted (on or above the dashed line). At the lower edge: the "
        "loss rose." + (_FIRST if crowd else ""), present, basis=_basis(context, shown), data=data)


def _lines(axes: Axes, data: pd.DataFrame, column: str, look: Look,
           limits: tuple[float, float]) -> None:
    """Draws the first seeds thin, and the median over all of them as long as all run."""
    data = data.assign(drawn=data[column].clip(*limits))
    runs = data["run_id"].unique()
    # One path with gaps: a path for each seed would make the page several times as heavy.
    gap = np.full((1, 2), np.nan)
    thin = data[["samples", "drawn"]].to_numpy(float)
    lines = [part for run in runs[:SINGLE]
             for part in (thin[(data["run_id"] == run).to_numpy()], gap)]
    axes.plot(*np.concatenate(lines).T, color=look.color, linewidth=0.8, alpha=0.4)
    seeds = len(runs)
    middle = data.groupby("evaluation").agg(
        samples=("samples", "median"), drawn=("drawn", "median"), seeds=("run_id", "nunique"))
    middle = middle[middle["seeds"] == seeds]
    axes.plot(middle["samples"], middle["drawn"], color=look.color, linestyle=look.dashes,
              marker=look.marker, markersize=4, markeredgewidth=0,
              markevery=max(1, len(middle) // 6), zorder=3)


def _present(rows: pd.DataFrame, looks: Mapping[str, Look]) -> dict[str, Look]:
    there = set(rows["optimizer"])
    return {label: look for label, look in looks.items() if label in there}


def _basis(context: Context, rows: pd.DataFrame) -> str:
    trainings = rows["run_id"].nunique()
    return f"{units.plural(trainings, 'final training')}. {context.conditions}"


def _figure_table(context: Context, group: CellGroup, rows: pd.DataFrame) -> Table:
    # Plain numbers: a data frame's own are of types that JSON does not have.
    numbers = [{
        "optimizer": row["optimizer"], "suite": context.suite.name, "ranks": group.ranks,
        "run_id": row["run_id"], "evaluation": row["evaluation"], "samples": row["samples"],
        **{column: row[column] if math.isfinite(row[column]) else None for column in _TABLED}}
        for row in rows[["optimizer", "run_id", "evaluation", "samples", *_TABLED]].to_dict(
            "records")]
    return Table(
        "trust-region-course", f"Course of the trust region at N = {group.ranks}",
        "What was told at each evaluation: shares are of the steps since the one before, numbers "
        "those of the last judged step.",
        (("Optimizer", ""), ("Samples", "all ranks"), ("Radius", ""), ("Accepted", "share"),
         ("Ratio", "actual over predicted"), ("Best length", "in steps"),
         ("Predicted", "reduction"), ("Actual", "reduction"), ("At a bound", "share")),
        tuple(map(_table_row, numbers[:MOST_ROWS])), rest=numbers[MOST_ROWS:])


def _table_row(numbers: Mapping[str, Any]) -> tuple[Value, ...]:
    """Returns a row of the table of these numbers, given in the order of its columns."""
    opening = {key: numbers[key] for key in ("suite", "ranks", "run_id", "evaluation")}
    return (
        name(numbers["optimizer"], **opening),
        number(units.format_count(numbers["samples"]), samples=numbers["samples"]),
        *(Value(units.NONE if (value := numbers[column]) is None else form(value),
                numbers={column: value}) for column, form in _TABLED.items()))


Line = tuple[int, str, "StepTally"]
"""N, the optimizer's label, and its sums."""


SECTION = Section("trust", "Trust region", order=70)


def part(context: Context) -> Part | None:
    """Builds the section; None where no optimizer judges its steps."""
    lines: list[Line] = []
    pictures: list[Block] = []
    for group in context.groups:
        rows = curve_data.trust_frame(group)
        if rows.empty:
            continue
        lines += [(group.ranks, str(label), curve_data.tally_steps(mine))
                  for label, mine in rows.groupby("optimizer", sort=False)]
        drawn = trust_figures(context, group, rows)
        if drawn:
            pictures.append(Pictures(tuple(drawn), f"N = {group.ranks}"))
    if not lines:
        return None
    alarms = [Prose(line) for line in _alarms(lines)]
    return SECTION.part(_finding(lines),
                (*alarms, *pictures, Listing(_table(context, lines), folded=False)), legend=True,
                drawn=tuple(dict.fromkeys(label for _, label, _ in lines)))


def _finding(lines: Sequence[Line]) -> str:
    """Says of each optimizer, at the largest N, how often it kept a step and where it ended."""
    most = max(ranks for ranks, _, _ in lines)
    parts = []
    for ranks, label, tally in lines:
        if ranks == most:
            count = f"{'' if tally.judged is None else f'{tally.judged:,} '}judged steps"
            parts.append(
                f"{label} kept {units.format_percent(tally.share, 0)} of its {count} and ended "
                f"at a radius of {units.digits(tally.radius)} (median of "
                f"{units.plural(tally.seeds, 'seed')})"
            )
    return f"At N = {most}, {'; '.join(parts)}."


def _alarms(lines: Sequence[Line]) -> list[str]:
    found = []
    for ranks, label, tally in lines:
        if tally.at_bound is not None and tally.at_bound >= curve_data.STUCK:
            found.append(
                f"Stuck: at N = {ranks} the radius of {label} lay at one of its bounds after "
                f"{units.format_percent(tally.at_bound, 0)} of the judged steps. The bound "
                "decides there, not the method; set it wider, or look at the predictions."
            )
        if tally.idle:
            found.append(
                f"At a standstill: at N = {ranks} {label} kept no step over the last quarter of "
                f"the training in {tally.idle} of {units.plural(tally.seeds, 'seed')}.")
    return found


def _table(context: Context, lines: Sequence[Line]) -> Table:
    rows: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for ranks, label, tally in lines:
        if ranks != previous:
            breaks.add(len(rows))
            previous = ranks
        rows.append(
            (
                name(label, suite=context.suite.name),
                number(str(ranks), ranks=ranks),
                number(units.digits(tally.radius), final_radius=_plain(tally.radius)),
                _count("judged", tally.judged, f"of {tally.steps:,}"),
                _count("accepted", tally.accepted, units.format_percent(tally.share)),
                _count(
                    "rejected",
                    None
                    if tally.judged is None or tally.accepted is None
                    else tally.judged - tally.accepted,
                ),
                number(
                    units.NONE if math.isnan(tally.ratio) else units.digits(tally.ratio),
                    acceptance_ratio=_plain(tally.ratio),
                ),
                Value(
                    "not recorded"
                    if tally.at_bound is None
                    else units.format_percent(tally.at_bound),
                    numbers={"share_at_bound": tally.at_bound},
                ),
                _count("local_passes", tally.local),
                _count(
                    "other_passes", None if tally.local is None else tally.passes - tally.local
                ),
                number(
                    str(tally.seeds),
                    seeds=tally.seeds,
                    steps=tally.steps,
                    accepted_share=_plain(tally.share),
                ),
            )
        )
    return Table(
        "trust-region", "Steps of the trust-region methods",
        "Sums over the seeds' whole trainings. Accepted: of the judged steps. Ratio: actual over "
        "predicted reduction of the last judged step before each evaluation, median; methods "
        "that predict none are judged by the change of the loss on fresh samples. At a bound: "
        "share of judged steps after which the radius lay at its smallest or largest value. "
        "Local passes: forward and backward passes of steps that a rank takes alone; global: all "
        "others, whose result all ranks share. Not recorded: run by an earlier bench-apts.",
        (("Optimizer", ""), ("N", "ranks"), ("Radius", "at the end"), ("Judged", "steps"),
         ("Accepted", "steps"), ("Rejected", "steps"), ("Ratio", "median"),
         ("At a bound", "of judged steps"), ("Local", "passes"), ("Global", "passes"),
         ("Seeds", "")),
        tuple(rows), frozenset(breaks))


def _count(column: str, value: int | None, detail: str = "") -> Value:
    """A count, or that the records were made before it was told."""
    if value is None:
        return Value("not recorded", detail if detail.endswith("%") else "", {column: None})
    return Value(units.format_count(value), detail, {column: value})


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
