"""Trust region: radius, acceptance, bounds, predicted against actual reduction, and passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import units
from bench_apts.reports import canvas
from bench_apts.reports.curve_data import SINGLE, StepTally, step_frame, tally_steps
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import Block, Listing, Pictures, Prose, Section, opening
from bench_apts.reports.table import MOST_ROWS, Table, Value, grouped_table, known, name, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.cells import CellGroup
    from bench_apts.reports.section_parts import Context, Part

SECTION = Section("trust", "Trust region", order=70)

STUCK = 0.5
"""Share of the judged steps with the radius at a bound from which on it counts as stuck."""

_FIRST = f" Single: the first {SINGLE} seeds of each."


def _percent(value: float) -> str:
    return units.format_percent(value, 0)


class _Quantity(NamedTuple):
    """What is drawn against samples; ``limits`` None: log scale over what there is."""

    column: str
    words: str
    form: Callable[[float], str]
    limits: tuple[float, float] | None
    line: float | None = None


_AGAINST_SAMPLES = (
    _Quantity("radius", "trust-region radius", units.digits, None),
    _Quantity("accepted", "share of judged steps accepted", _percent, (-0.03, 1.03)),
    _Quantity("rho", "acceptance ratio: actual over predicted reduction", units.digits,
              (-1.0, 2.5), 1.0),
    _Quantity("best_length", "best length of a step, in steps", units.digits, (-0.1, 4.0), 1.0),
    _Quantity("at_bound", "share of judged steps with the radius at a bound", _percent,
              (-0.03, 1.03)),
)

_TABLED: dict[str, Callable[[float], str]] = {
    "radius": units.digits, "accepted": _percent, "rho": units.digits,
    "best_length": units.digits, "predicted_reduction": units.digits,
    "actual_reduction": units.digits, "at_bound": _percent}
"""Columns of the figures' table, in the order of its titles."""


_Line = tuple[int, str, StepTally]
"""N, the optimizer's label, and its sums."""


def part(context: Context) -> Part | None:
    """Build the section; None where no optimizer judges its steps."""
    lines: list[_Line] = []
    pictures: list[Block] = []
    for group in context.groups:
        rows = step_frame(group)
        if rows.empty:
            continue
        lines += [(group.ranks, str(label), tally_steps(mine))
                  for label, mine in rows.groupby("optimizer", sort=False)]
        data = _figure_table(context, group, rows)
        drawn = [figure for quantity in _AGAINST_SAMPLES
                 if (figure := _against_samples(context, group, rows, quantity, data))]
        if predicted := _predicted(context, group, rows, data):
            drawn.append(predicted)
        if drawn:
            pictures.append(Pictures(tuple(drawn), f"N = {group.ranks}"))
    if not lines:
        return None
    return SECTION.part(
        _finding(lines),
        (*map(Prose, _alarms(lines)), *pictures, Listing(_table(context, lines), folded=False)))


def _against_samples(context: Context, group: CellGroup, rows: pd.DataFrame, what: _Quantity,
                     data: Table) -> canvas.Figure | None:
    """Draw a quantity: the first seeds thin, the median over all as long as all run."""
    shown = rows.dropna(subset=[what.column])
    if what.limits is None:
        shown = shown[shown[what.column] > 0]
    if shown.empty or (what.column == "at_bound" and not shown["at_bound"].any()):
        return None
    values = shown[what.column]
    low, high = what.limits or (values.min() / 1.4, values.max() * 1.4)

    def draw() -> Drawing:
        drawing, axes = canvas.panel()
        clipped = shown.assign(drawn=values.clip(low, high))
        for label, mine in clipped.groupby("optimizer", sort=False):
            canvas.draw_seeds(axes, [run[["samples", "drawn"]].to_numpy(float) for _, run in [
                *mine.groupby("run_id", sort=False)][:SINGLE]], context.looks[str(label)])
        middle = clipped.groupby(["optimizer", "evaluation"], sort=False, as_index=False).agg(
            samples=("samples", "median"), drawn=("drawn", "median"), seeds=("run_id", "nunique"))
        most = middle["optimizer"].map(clipped.groupby("optimizer")["run_id"].nunique())
        canvas.draw_lines(axes, middle[middle["seeds"] == most], "samples", "drawn", context.looks,
                          markevery=0.2)
        if what.line is not None:
            axes.axhline(what.line, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
        canvas.scale(axes, "x", units.format_count, limits=(0, shown["samples"].max() * 1.03))
        canvas.scale(axes, "y", what.form, log=what.limits is None, limits=(low, high))
        axes.set_xlabel("samples, all ranks together")
        canvas.heading(axes, what.words)
        return drawing

    ends = shown.groupby(["optimizer", "run_id"])[what.column].last()
    labels = [label for label in context.looks if label in set(shown["optimizer"])]
    said = [f"{label} {what.form(ends[label].median())}" for label in labels]
    beyond = int(((values < low) | (values > high)).sum())
    return context.figure(
        draw, what.column.replace("_", "-"), f"{what.words} against samples",
        f"At the end (median over seeds): {units.listing(said)}."
        + (f" {beyond} of {units.plural(len(values), 'value')} beyond the axis are drawn at its "
           "end." if beyond else "")
        + (_FIRST if any(len(ends[label]) > SINGLE for label in labels) else ""),
        ranks=group.ranks, drawn=labels, basis=_basis(context, shown), data=data)


def _predicted(context: Context, group: CellGroup, rows: pd.DataFrame,
               data: Table) -> canvas.Figure | None:
    """Draw the actual against the predicted reduction; what rose stands at the lower edge."""
    shown = rows.dropna(subset=["predicted_reduction", "actual_reduction"])
    shown = shown[shown["predicted_reduction"] > 0]
    fell = shown[shown["actual_reduction"] > 0]
    if fell.empty:
        return None
    every = [*fell["predicted_reduction"], *fell["actual_reduction"]]
    low, high = min(every) / 1.6, max(*every, *shown["predicted_reduction"]) * 1.6
    labels = [label for label in context.looks if label in set(shown["optimizer"])]
    crowd = shown.groupby("optimizer")["run_id"].nunique().max() > SINGLE

    def draw() -> Drawing:
        drawing, axes = canvas.panel()
        for label in labels:
            mine = shown[shown["optimizer"] == label]
            mine = mine[mine["run_id"].isin(mine["run_id"].unique()[:SINGLE])]
            canvas.draw_marks(axes, mine["predicted_reduction"].clip(lower=low),
                              mine["actual_reduction"].clip(lower=low), context.looks[label],
                              size=4, alpha=0.6, clip_on=False)
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for which in ("x", "y"):
            canvas.scale(axes, which, units.digits, log=True, limits=(low, high), ticks=4)
        axes.set_xlabel("predicted reduction of the loss")
        canvas.heading(axes, "actual reduction of the loss")
        return drawing

    better = int((fell["actual_reduction"] >= fell["predicted_reduction"]).sum())
    return context.figure(
        draw, "predicted-actual", "actual against predicted reduction",
        f"Of {units.plural(len(shown), 'step')}, the last judged one before each evaluation, "
        f"{len(fell)} lowered the loss, {better} by at least what was predicted (on or above the "
        "dashed line). At the lower edge: the loss rose." + (_FIRST if crowd else ""),
        ranks=group.ranks, drawn=labels, basis=_basis(context, shown), data=data)


def _basis(context: Context, rows: pd.DataFrame) -> str:
    return f"{units.plural(rows['run_id'].nunique(), 'final training')}. {context.conditions}"


def _figure_table(context: Context, group: CellGroup, rows: pd.DataFrame) -> Table:
    # Plain numbers: a data frame's own are of types that JSON does not have.
    # The page shows the first rows alone: of every optimizer, then.
    ordered = rows.sort_values("evaluation", kind="stable")
    numbers = [{
        "optimizer": label, "suite": context.suite.name, "ranks": group.ranks, "run_id": run,
        "evaluation": evaluation, "samples": samples,
        **{column: value if math.isfinite(value) else None
           for column, value in zip(_TABLED, values, strict=True)}}
        for label, run, evaluation, samples, *values in zip(*(
            ordered[column].tolist() for column in (
                "optimizer", "run_id", "evaluation", "samples", *_TABLED)), strict=True)]
    return Table(
        "trust-region-course", f"Course of the trust region at N = {group.ranks}",
        "What was reported at each evaluation: shares are of the steps since the one before, "
        "numbers those of the last judged step.",
        (("Optimizer", ""), ("Samples", "all ranks"), ("Radius", ""), ("Accepted", "share"),
         ("Ratio", "actual over predicted"), ("Best length", "in steps"),
         ("Predicted", "reduction"), ("Actual", "reduction"), ("At a bound", "share")),
        tuple(map(_figure_row, numbers[:MOST_ROWS])), rest=numbers[MOST_ROWS:])


def _figure_row(numbers: Mapping[str, Any]) -> tuple[Value, ...]:
    first = {key: numbers[key] for key in ("suite", "ranks", "run_id", "evaluation")}
    return (name(numbers["optimizer"], **first),
            number(units.format_count(numbers["samples"]), samples=numbers["samples"]),
            *(known(column, numbers[column], form) for column, form in _TABLED.items()))


def _finding(lines: Sequence[_Line]) -> str:
    """Say of each optimizer, at the largest N, how often it kept a step and where it ended."""
    most = max(ranks for ranks, _, _ in lines)
    parts = [f"{label} kept {_percent(tally.share)} of its "
             f"{'' if tally.judged is None else f'{tally.judged:,} '}judged steps and ended at a "
             f"radius of {units.digits(tally.radius)} (median of "
             f"{units.plural(tally.seeds, 'seed')})"
             for ranks, label, tally in lines if ranks == most]
    return f"At N = {most}, {'; '.join(parts)}."


def _alarms(lines: Sequence[_Line]) -> Iterable[str]:
    for ranks, label, tally in lines:
        if tally.at_bound is not None and tally.at_bound >= STUCK:
            yield (f"Stuck: at N = {ranks} the radius of {label} lay at one of its bounds after "
                   f"{_percent(tally.at_bound)} of the judged steps. The bound decides there, not "
                   "the method; set it wider, or look at the predictions.")
        if tally.idle:
            yield (f"At a standstill: at N = {ranks} {label} kept no step over the last quarter "
                   f"of the training in {tally.idle} of {units.plural(tally.seeds, 'seed')}.")


def _table(context: Context, lines: Sequence[_Line]) -> Table:
    sizes = dict.fromkeys(ranks for ranks, _, _ in lines)
    return grouped_table(
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
        ([_row(context, *line) for line in lines if line[0] == size] for size in sizes))


def _row(context: Context, ranks: int, label: str, tally: StepTally) -> tuple[Value, ...]:
    judged, accepted, local = tally.judged, tally.accepted, tally.local
    rejected = None if judged is None or accepted is None else judged - accepted
    return (
        *opening(context, label, ranks),
        known("final_radius", tally.radius, units.digits, absent="nan"),
        _count("judged", judged, "" if judged is None else f"of {tally.steps:,}"),
        _count("accepted", accepted, units.format_percent(tally.share)),
        _count("rejected", rejected),
        known("acceptance_ratio", tally.ratio, units.digits),
        known("share_at_bound", tally.at_bound, units.format_percent, absent="not recorded"),
        _count("local_passes", local),
        _count("other_passes", None if local is None else tally.passes - local),
        number(str(tally.seeds), seeds=tally.seeds, steps=tally.steps,
               accepted_share=None if math.isnan(tally.share) else tally.share))


def _count(column: str, value: int | None, detail: str = "") -> Value:
    """Return the entry of a count, which older records do not have."""
    return known(column, value, units.format_count, detail, absent="not recorded")
