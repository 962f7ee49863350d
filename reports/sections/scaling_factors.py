"""How each optimizer scales: time and samples to the target at each N, and those at N0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.reports import table
from bench_apts.reports.cost_tables import timed
from bench_apts.stats import trial_origins
from bench_apts.stats.world_sizes import Efficiency, MeasuredTraining, efficiency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.section_parts import Context

_WHAT = (
    "Efficiency = N0·T(N0) / (N·T(N)), T the training time to the target, is hardware (samples a "
    "second and rank, over those at N0) times statistical (samples to the target at N0, over "
    "those at N). † More ranks than cores: what rests on such times measures the machine, and "
    "is not shown; the CSV file has it.")

_MODES = {"strong": "Strong scaling: the global minibatch stays as ranks are added.",
          "weak": "Weak scaling: each rank's share of the minibatch stays as ranks are added."}


class ScaledOptimizer(NamedTuple):
    """One optimizer at one N, and at N0, the smallest N where its median seed hit.

    Attributes:
        cell: At N.
        training: Medians over its seeds.
        base: The same at N0; None where no N has a median seed that hit.
        efficiency: Of the medians, so that its factors are exactly those of the numbers shown;
            None where either missed.
        spread: Smallest and largest efficiency of a seed against the same seed at N0, where both
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
    """Return every optimizer with final trainings at each N, N varying fastest."""
    found = []
    for label in context.looks:
        cells = [cell for group in context.groups for cell in group.cells
                 if cell.label == label and cell.seeds]
        base = next((cell for cell in cells if math.isfinite(_median(cell).seconds)), None)
        if base is None:
            found += [ScaledOptimizer(cell, _median(cell), None, None, None,
                                      context.crowded[cell.ranks]) for cell in cells]
            continue
        first = _median(base)
        for cell in cells:
            training = _median(cell)
            unlike = trial_origins.unlike((*base.seeds, *cell.seeds), trial_origins.SIZE_TRAITS)
            pairs = [] if unlike else _seed_ratios(base, cell)
            found.append(ScaledOptimizer(
                cell, training, first, None if unlike else efficiency(first, training),
                (min(pairs), max(pairs)) if pairs else None,
                context.crowded[cell.ranks] or context.crowded[base.ranks], unlike))
    return found


def _median(cell: ReportCell) -> MeasuredTraining:
    return MeasuredTraining(
        cell.ranks, cell.to_target("train_s").median, cell.to_target("samples").median)


def _seed_ratios(base: ReportCell, cell: ReportCell) -> list[float]:
    """Return the efficiencies of repetitions that both hit; these share weights and data order."""
    firsts, runs = ({record.trial.repetition: MeasuredTraining(
        one.ranks, outcome.cost["train_s"], outcome.cost["samples"])
        for record, outcome in zip(one.seeds, one.finals, strict=True)} for one in (base, cell))
    return [found.total for number in sorted(firsts.keys() & runs.keys())
            if (found := efficiency(firsts[number], runs[number])) is not None]


def comparable(rows: Sequence[ScaledOptimizer]) -> tuple[list[ScaledOptimizer], int]:
    """Return those at the largest N beyond N0 that share the smallest N0 there, and that N0.

    An efficiency against a larger N0 is higher for having less to lose.
    """
    beyond = [(row.cell.ranks, row.base.ranks, row) for row in rows
              if row.efficiency and row.base and row.base.ranks < row.cell.ranks]
    if not beyond:
        return [], 0
    ranks = max(entry[0] for entry in beyond)
    base = min(entry[1] for entry in beyond if entry[0] == ranks)
    return [row for *sizes, row in beyond if sizes == [ranks, base]], base


def efficiency_table(context: Context, rows: Sequence[ScaledOptimizer]) -> table.Table | None:
    """Return a line for each optimizer, its efficiency and factors at each N; None without any."""
    sizes = sorted({row.cell.ranks for row in rows
                    if row.efficiency and row.base and row.base.ranks != row.cell.ranks})
    if not sizes:
        return None
    lines = []
    for label in dict.fromkeys(row.cell.label for row in rows):
        mine = {row.cell.ranks: row for row in rows if row.cell.label == label}
        base = next(iter(mine.values())).base
        lines.append((
            table.name(label, suite=context.suite.name),
            table.known("base_ranks", base.ranks if base else None, str, absent="no hit"),
            *(_factors(mine.get(ranks), ranks) for ranks in sizes)))
    return table.Table(
        "efficiency", f"Efficiency = hardware × statistical, {context.suite.scaling} scaling",
        f"Against N0, the smallest N where the median seed hit. {_WHAT}",
        (("Optimizer", ""), ("N0", "ranks"), *((f"N = {ranks}", "against N0") for ranks in sizes)),
        tuple(lines))


def _factors(row: ScaledOptimizer | None, ranks: int) -> table.Value:
    missing = {f"efficiency_n{ranks}": None}
    if row is None:
        return table.Value(units.NONE, numbers=missing)
    if row.unlike:
        return table.Value("not judged", f"trials differ in {row.unlike}", missing)
    if row.efficiency is None:
        return table.Value("no hit", numbers=missing, kind="number missed")
    found = row.efficiency
    total, hardware, statistical = map(units.digits, (
        found.total, found.hardware, found.statistical))
    shown = ((units.NONE, f"statistical {statistical}") if row.crowded
             else (total, f"{hardware} × {statistical}"))
    return table.Value(*shown, {
        f"efficiency_n{ranks}": found.total, f"hardware_n{ranks}": found.hardware,
        f"statistical_n{ranks}": found.statistical})


def scaling_table(context: Context, rows: Sequence[ScaledOptimizer]) -> table.Table:
    """Return time and samples to the target, and the efficiency with its two factors."""
    labels = dict.fromkeys(row.cell.label for row in rows)
    return table.grouped_table(
        "scaling", f"Time and samples to the target at each N, {context.suite.scaling} scaling",
        f"{_MODES[context.suite.scaling]} Medians over seeds. {_WHAT} Below the efficiency: "
        "smallest and largest over seeds that hit at both N.",
        (("Optimizer", ""), ("N", "ranks"), ("Scaling", ""), ("Training", "time to target"),
         ("Samples", "to target"), ("Throughput", "samples a second"),
         ("Efficiency", "against N0"), ("Hardware", "factor"), ("Statistical", "factor"),
         ("N0", "ranks"), ("Hit", "seeds")),
        ([_row(context, row) for row in rows if row.cell.label == label] for label in labels))


def _row(context: Context, row: ScaledOptimizer) -> tuple[table.Value, ...]:
    cell, run, found = row.cell, row.training, row.efficiency
    crowded, mode = context.crowded[cell.ranks], context.suite.scaling
    hit = math.isfinite(run.seconds)
    low, high = row.spread or (None, None)
    total = table.known("efficiency", found.total if found else None, units.digits)
    between = (units.between(units.digits(low), units.digits(high))
               if low is not None and high is not None and low < high else "")
    hardware = table.known("hardware", found.hardware if found else None, units.digits)
    pace = run.samples / run.seconds if hit and run.seconds else None
    speed = table.known("samples_per_s", pace, units.format_count)
    hits = sum(outcome.hit for outcome in cell.finals)
    return (
        table.name(cell.label, suite=context.suite.name),
        table.number(f"{cell.ranks}{' †' if crowded else ''}", ranks=cell.ranks,
                     more_ranks_than_cores=crowded),
        table.words(mode, scaling=mode),
        timed(table.reached("train_s_to_target", run.seconds, units.format_seconds),
              hit and crowded),
        table.reached("samples_to_target", run.samples, units.format_count),
        table.Value(units.NONE, numbers=speed.numbers) if crowded else speed,
        table.Value("not judged" if row.unlike else units.NONE if row.crowded else total.text,
                    "" if row.crowded else between,
                    {**total.numbers, "efficiency_low": low, "efficiency_high": high}),
        table.Value(units.NONE, numbers=hardware.numbers) if row.crowded else hardware,
        table.known("statistical", found.statistical if found else None, units.digits),
        table.known("base_ranks", row.base.ranks if row.base else None, str),
        table.number(f"{hits} of {len(cell.seeds)}", hits=hits, seeds=len(cell.seeds)))
