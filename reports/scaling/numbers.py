"""How each optimizer scales: time and samples to the target at each N, beside those at N0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.stats import origins
from bench_apts.stats.efficiency import Efficiency, Training, efficiency

from ..cost_tables import timed
from ..table import Table, Value, name, number, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cells import Cell
    from ..context import Context


class Scaled(NamedTuple):
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

    cell: Cell
    training: Training
    base: Training | None
    efficiency: Efficiency | None
    spread: tuple[float, float] | None
    crowded: bool
    unlike: str = ""


def scaled(context: Context) -> list[Scaled]:
    """Returns every optimizer with final trainings at each N, N varying fastest."""
    found = []
    for label in context.looks:
        cells = [cell for group in context.groups for cell in group.cells
                 if cell.label == label and cell.seeds]
        base = next((cell for cell in cells if math.isfinite(_median(cell).seconds)), None)
        for cell in cells:
            training = _median(cell)
            first = _median(base) if base else None
            unlike = origins.unlike((*base.seeds, *cell.seeds), origins.SPREAD) if base else ""
            pairs = _pairs(base, cell) if base and not unlike else []
            found.append(Scaled(
                cell, training, first,
                efficiency(first, training) if first and not unlike else None,
                (min(pairs), max(pairs)) if pairs else None,
                context.crowded[cell.ranks]
                or (base is not None and context.crowded[base.ranks]), unlike))
    return found


def _median(cell: Cell) -> Training:
    return Training(cell.ranks, cell.to_target("train_s").median, cell.to_target("samples").median)


def _pairs(base: Cell, cell: Cell) -> list[float]:
    """Efficiencies of the repetitions that both hit; they share weights and order of the data."""
    firsts, runs = ({record.trial.repetition: Training(
        one.ranks, outcome.cost["train_s"], outcome.cost["samples"])
        for record, outcome in zip(one.seeds, one.finals, strict=True)} for one in (base, cell))
    return [found.total for number in sorted(firsts.keys() & runs.keys())
            if (found := efficiency(firsts[number], runs[number])) is not None]


def summary(context: Context, rows: Sequence[Scaled]) -> Table | None:
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


def _factors(row: Scaled | None, ranks: int) -> Value:
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


def table(context: Context, rows: Sequence[Scaled]) -> Table:
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
            timed(Value(units.seconds(run.seconds) if reached else "no hit", kind=kind,
                        numbers={"train_s_to_target": run.seconds if reached else None}),
                  reached and context.crowded[cell.ranks]),
            Value(units.count(run.samples) if reached else "no hit", kind=kind,
                  numbers={"samples_to_target": run.samples if reached else None}),
            number(units.NONE if speed is None or context.crowded[cell.ranks]
                   else units.count(speed), samples_per_s=speed),
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
