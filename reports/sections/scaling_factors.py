"""How each optimizer scales: time and samples to the target at each N, beside those at N0.

Figures against the number of ranks: time, bytes, and the two factors of efficiency.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES
from bench_apts.reports import section_parts
from bench_apts.reports.canvas import Figure, finish, heading, headroom, panel, scale
from bench_apts.reports.cost_tables import timed
from bench_apts.reports.figure_style import MUTED
from bench_apts.reports.table import Table, Value, name, number, words
from bench_apts.stats import trial_origins
from bench_apts.stats.world_sizes import Efficiency, MeasuredTraining, efficiency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context

class ScaledOptimizer(NamedTuple):
    """One optimizer at one N beside itself at N0, the smallest N where its median seed hit.

    Attributes:
        cell: At N.
        training: Medians over its seeds.
        base: The same at N0; None where no N has a median seed that hit.
        efficiency: Of the medians, so that its factors are exactly those of the numbers shown;
            None where either missed.
        spread: Smallest and largest efficiency of a seed beside the same seed at N0, where both
            hit; None without such a pair.
        crowded: More ranks than cores at N or at N0: its times measure the machine.
        unlike: In what the environments of its trials differ from those at N0, so that nothing is
            worked out; or "".
    """

    cell: ReportCell
    training: MeasuredTraining
    base: MeasuredTraining | None
    efficiency: Efficiency | None
    spread: tuple[float, float] | None
    crowded: bool
    unlike: str = ""


def scale_optimizers(context: Context) -> list[ScaledOptimizer]:
    """Returns every optimizer with final trainings at each N, N varying fastest."""
    found = []
    for label in context.looks:
        cells = [cell for group in context.groups for cell in group.cells
                 if cell.label == label and cell.seeds]
        base = next((cell for cell in cells if math.isfinite(_median(cell).seconds)), None)
        for cell in cells:
            training = _median(cell)
            first = _median(base) if base else None
            unlike = (
                trial_origins.unlike((*base.seeds, *cell.seeds), trial_origins.SPREAD)
                if base
                else ""
            )
            pairs = _seed_ratios(base, cell) if base and not unlike else []
            found.append(ScaledOptimizer(
                cell, training, first,
                efficiency(first, training) if first and not unlike else None,
                (min(pairs), max(pairs)) if pairs else None,
                context.crowded[cell.ranks]
                or (base is not None and context.crowded[base.ranks]), unlike))
    return found


def _median(cell: ReportCell) -> MeasuredTraining:
    return MeasuredTraining(
        cell.ranks, cell.to_target("train_s").median, cell.to_target("samples").median
    )


def _seed_ratios(base: ReportCell, cell: ReportCell) -> list[float]:
    """Efficiencies of the repetitions that both hit; they share weights and order of the data."""
    firsts, runs = ({record.trial.repetition: MeasuredTraining(
        one.ranks, outcome.cost["train_s"], outcome.cost["samples"])
        for record, outcome in zip(one.seeds, one.finals, strict=True)} for one in (base, cell))
    return [found.total for number in sorted(firsts.keys() & runs.keys())
            if (found := efficiency(firsts[number], runs[number])) is not None]


def efficiency_table(context: Context, rows: Sequence[ScaledOptimizer]) -> Table | None:
    """One line for each optimizer: its efficiency at each N and the factors; None without any."""
    sizes = sorted({row.cell.ranks for row in rows
                    if row.efficiency and row.base and row.base.ranks != row.cell.ranks})
    if not sizes:
        return None
    lines = []
    for label in dict.fromkeys(row.cell.label for row in rows):
        mine = {row.cell.ranks: row for row in rows if row.cell.label == label}
        base = next(iter(mine.values())).base
        lines.append((
            name(label, suite=context.suite.name),
            number(str(base.ranks) if base else "no hit", base_ranks=base.ranks if base else None),
            *(_factors(mine.get(ranks), ranks) for ranks in sizes)))
    return Table(
        "efficiency", f"Efficiency = hardware × statistical, {context.suite.scaling} scaling",
        f"Against N0, the smallest N where the median seed hit. {_WHAT}",
        (("Optimizer", ""), ("N0", "ranks"), *((f"N = {ranks}", "against N0") for ranks in sizes)),
        tuple(lines))


def _factors(row: ScaledOptimizer | None, ranks: int) -> Value:
    if row and row.unlike:
        return Value("not judged", f"trials differ in {row.unlike}",
                     {f"efficiency_n{ranks}": None})
    if row is None or row.efficiency is None:
        return Value("no hit" if row else units.NONE, kind="number missed" if row else "number",
                     numbers={f"efficiency_n{ranks}": None})
    found = row.efficiency
    return Value(units.digits(found.total) if not row.crowded else units.NONE,
                 f"{units.digits(found.hardware)} × {units.digits(found.statistical)}"
                 if not row.crowded else f"statistical {units.digits(found.statistical)}",
                 {f"efficiency_n{ranks}": found.total, f"hardware_n{ranks}": found.hardware,
                  f"statistical_n{ranks}": found.statistical})


def scaling_table(context: Context, rows: Sequence[ScaledOptimizer]) -> Table:
    """Time and samples to the target, and the efficiency with its two factors."""
    lines: list[tuple[Value, ...]] = []
    breaks = set()
    for row in rows:
        cell, run, found = row.cell, row.training, row.efficiency
        if not lines or lines[-1][0].label != cell.label:
            breaks.add(len(lines))
        reached = math.isfinite(run.seconds)
        speed = run.samples / run.seconds if reached and run.seconds else None
        kind = "number" if reached else "number missed"
        hits = sum(outcome.hit for outcome in cell.finals)
        low, high = row.spread or (None, None)
        lines.append((
            name(cell.label, suite=context.suite.name),
            number(f"{cell.ranks}{' †' if context.crowded[cell.ranks] else ''}",
                   ranks=cell.ranks, more_ranks_than_cores=context.crowded[cell.ranks]),
            words(context.suite.scaling, scaling=context.suite.scaling),
            timed(Value(units.format_seconds(run.seconds) if reached else "no hit", kind=kind,
                        numbers={"train_s_to_target": run.seconds if reached else None}),
                  reached and context.crowded[cell.ranks]),
            Value(units.format_count(run.samples) if reached else "no hit", kind=kind,
                  numbers={"samples_to_target": run.samples if reached else None}),
            number(units.NONE if speed is None or context.crowded[cell.ranks]
                   else units.format_count(speed), samples_per_s=speed),
            number("not judged" if row.unlike
                   else units.NONE if row.crowded or not found else units.digits(found.total),
                   units.between(units.digits(low), units.digits(high))
                   if low is not None and high is not None and low < high and not row.crowded
                   else "",
                   efficiency=found.total if found else None,
                   efficiency_low=low, efficiency_high=high),
            number(units.digits(found.hardware) if found and not row.crowded else units.NONE,
                   hardware=found.hardware if found else None),
            number(units.digits(found.statistical) if found else units.NONE,
                   statistical=found.statistical if found else None),
            number(str(row.base.ranks) if row.base else units.NONE,
                   base_ranks=row.base.ranks if row.base else None),
            number(f"{hits} of {len(cell.seeds)}", hits=hits, seeds=len(cell.seeds))))
    return Table(
        "scaling", f"Time and samples to the target at each N, {context.suite.scaling} scaling",
        f"{_MODES[context.suite.scaling]} Medians over seeds. {_WHAT} Below the efficiency: "
        "smallest and largest over seeds that hit at both N.",
        (("Optimizer", ""), ("N", "ranks"), ("Scaling", ""), ("Training", "time to target"),
         ("Samples", "to target"), ("Throughput", "samples a second"),
         ("Efficiency", "against N0"), ("Hardware", "factor"), ("Statistical", "factor"),
         ("N0", "ranks"), ("Hit", "seeds")),
        tuple(lines), frozenset(breaks))


_WHAT = (
    "Efficiency = N0·T(N0) / (N·T(N)), T the training time to the target, is hardware (samples a "
    "second and rank, over those at N0) times statistical (samples to the target at N0, over "
    "those at N). † More ranks than cores: what rests on such times measures the machine, and "
    "is not shown; the CSV file has it.")

_MODES = {"strong": "Strong scaling: the global minibatch stays as ranks are added.",
          "weak": "Weak scaling: each rank's share of the minibatch stays as ranks are added."}


def label_shifts(labels: Sequence[str]) -> dict[str, float]:
    """Returns by how much each optimizer stands beside its N, so that none covers another."""
    step = min(0.07, 0.6 / max(1, len(labels)))
    return {label: step * (at - (len(labels) - 1) / 2) for at, label in enumerate(labels)}


def positions(axes: Axes, context: Context, groups: Sequence[CellGroup]) -> None:
    """Sets the horizontal axis: one place for each N."""
    axes.set_xticks(range(len(groups)), [str(group.ranks) for group in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(False, axis="x")
    axes.set_xlabel(f"number of ranks N ({context.suite.scaling} scaling)")


def cost_figure(context: Context, currency: Currency, slug: str) -> Figure | None:
    """Draws a cost to the target against N, never as a speed-up; None if nobody has any.

    Args:
        context: The suite.
        currency: What the cost counts.
        slug: In the figure's name.
    """
    row = CURRENCIES[currency]
    groups = [g for g in context.groups if row.applies(context.gathered.device, g.ranks)
              and not (row.is_clock and context.crowded[g.ranks])]
    form, words = row.form, row.words
    drawing, axes = panel(4.9, 3.0, left=0.62)
    values: list[float] = []
    least: list[tuple[float, str]] = []
    drawn: dict[str, Look] = {}
    missed: dict[str, list[int]] = {}
    for label, shift in label_shifts(list(context.looks)).items():
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
    if row.is_clock and len(groups) < len(context.groups):
        caption += " Not drawn: N with more ranks than cores, whose times measure the machine."
    return finish(
        drawing, f"{context.prefix}-{slug}-ranks",
        f"{context.suite.name}: {words} to the target against N, {context.suite.scaling} scaling",
        caption, drawn, basis=section_parts.basis_sentence(context, groups),
        data=_costs_table(context, currency, words, groups))


def comparable(rows: Sequence[ScaledOptimizer]) -> tuple[list[ScaledOptimizer], int]:
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


def factor_figure(context: Context, rows: Sequence[ScaledOptimizer], which: str) -> Figure | None:
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
    for label, shift in label_shifts(list(context.looks)).items():
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
        drawing,
        f"{context.prefix}-{which}-ranks",
        f"{context.suite.name}: {which} factor of the efficiency against N, "
        f"{context.suite.scaling} scaling",
        caption,
        drawn,
        basis=section_parts.basis_sentence(context, groups),
        data=_factor_table(context, usable, which),
    )


def _costs_table(context: Context, currency: Currency, words: str,
                 groups: Sequence[CellGroup]) -> Table:
    return Table(
        f"{currency}-ranks", f"Data: {words} to the target", "Median over seeds, and their range.",
        (("Optimizer", ""), ("N", "ranks"), ("Median", "of seeds"), ("Smallest", ""),
         ("Largest", ""), ("Hit", "seeds")),
        tuple(_costs_row(context, currency, cell) for group in groups for cell in group.cells
              if cell.seeds))


def _costs_row(context: Context, currency: Currency, cell: ReportCell) -> tuple[Value, ...]:
    found, form = cell.to_target(currency), CURRENCIES[currency].form
    shown = [Value(form(value) if math.isfinite(value) else "no hit",
                   numbers={column: value if math.isfinite(value) else None},
                   kind="number" if math.isfinite(value) else "number missed")
             for column, value in ((f"{currency}_median", found.median),
                                   (f"{currency}_low", found.low),
                                   (f"{currency}_high", found.high))]
    return (name(cell.label, suite=context.suite.name), number(str(cell.ranks), ranks=cell.ranks),
            *shown, number(f"{found.hits} of {found.seeds}", hits=found.hits, seeds=found.seeds))


def _factor_table(context: Context, rows: Sequence[ScaledOptimizer], which: str) -> Table:
    return Table(
        f"{which}-ranks", f"Data: {which} factor", "Of medians over seeds.",
        (("Optimizer", ""), ("N", "ranks"), ("N0", "ranks"), (which.capitalize(), "factor")),
        tuple((name(row.cell.label, suite=context.suite.name),
               number(str(row.cell.ranks), ranks=row.cell.ranks),
               number(str(row.base.ranks), base_ranks=row.base.ranks),
               number(units.digits(getattr(row.efficiency, which)),
                      **{which: getattr(row.efficiency, which)}))
              for row in rows if row.base))
