"""Bytes of a step as measured, beside the formula of the method where one is known.

Figures of the bytes that optimizers send: of a step by collective, of a training by phase.

Section "traffic": bytes by collective and phase, and against what the methods must send.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.reports.canvas import Figure, finish, heading, panel, plain, scale
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import Listing, Pictures, Section, declared
from bench_apts.reports.sections import trial_detail
from bench_apts.reports.table import Table, Value, name, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.plugins.optimizer_contract import TrafficFormula
    from bench_apts.reports.cells import CellGroup
    from bench_apts.reports.section_parts import Block, Context, Part

class SentBytes(NamedTuple):
    """What one optimizer sent in training at one N, by collective.

    Attributes:
        label: The optimizer.
        ranks: N.
        run_id: The training it was counted in.
        formula: None where none is known.
        unit: What the formula is for: ``"step"``, or ``"round"`` of local steps.
        units: How many of them there were.
        steps: Optimizer steps.
        measured: Ideal bytes sent per rank and unit.
        expected: What the formula says of the same; empty without a formula.
    """

    label: str
    ranks: int
    run_id: str
    formula: TrafficFormula | None
    unit: str
    units: int
    steps: int
    measured: Mapping[str, float]
    expected: Mapping[str, float]

    @property
    def step_bytes(self) -> float:
        """Ideal bytes sent per rank and optimizer step, over all collectives."""
        return sum(self.measured.values()) * self.units / self.steps

    @property
    def difference(self) -> float | None:
        """By what share the bytes measured differ from the formula's; None without one."""
        total = sum(self.expected.values())
        return sum(self.measured.values()) / total - 1 if total else None


def bytes_sent(groups: Sequence[CellGroup]) -> list[SentBytes]:
    """Returns one training of each optimizer at each N > 1; one rank alone sends nothing."""
    found = []
    for group in groups:
        for cell in group.cells:
            if cell.communication is None or group.ranks == 1:
                continue
            record, comm = cell.communication
            if record.uncounted:
                continue
            moved = comm.get("train", {})
            steps = record.evals[-1].step if record.evals else 0
            backend = declared(cell)
            formula = backend.traffic if backend else None
            rounds = formula is not None and formula.unit == "round"
            number = moved["all_reduce"].calls if rounds and "all_reduce" in moved else steps
            if not moved or not number or not steps:
                continue
            found.append(SentBytes(
                cell.label, group.ranks, record.header.run_id, formula,
                formula.unit if formula else "step", number, steps,
                {collective: traffic.ideal_bytes / number
                 for collective, traffic in sorted(moved.items())},
                formula.ideal(record.start.parameters, group.ranks)
                if formula and record.start else {}))
    return found


def formula_table(context: Context, rows: Sequence[SentBytes]) -> Table:
    """The formula's bytes beside those measured, by collective."""
    lines: list[tuple[Value, ...]] = []
    breaks = set()
    for row in rows:
        breaks.add(len(lines))
        for collective in sorted({*row.measured, *row.expected}):
            measured = row.measured.get(collective, 0.0)
            expected = row.expected.get(collective)
            gap = None if expected is None else measured - expected
            lines.append((
                name(row.label, suite=context.suite.name),
                number(str(row.ranks), ranks=row.ranks),
                words(f"{row.formula.words} a {row.unit}" if row.formula else "none known",
                      formula=row.formula.words if row.formula else None, unit=row.unit),
                number(f"{row.units:,}", units=row.units),
                words(collective.replace("_", "-"), collective=collective),
                number(units.format_size(expected) if expected is not None else units.NONE,
                       expected_bytes=expected),
                number(units.format_size(measured), measured_bytes=measured),
                number(units.NONE if gap is None else _gap(gap),
                       "" if not gap or not expected else _share(gap / expected),
                       difference_bytes=gap)))
    return Table(
        "known-traffic", "Bytes against formulas",
        "Ideal bytes sent per rank in training, for one step or for one round of local steps, of "
        "one training of each optimizer. P: bytes of the parameters in float32; f = (N − 1)/N. "
        "A collective without a formula's number, such as the broadcast of a model's buffers, "
        f"comes on top.{_notes(rows)}",
        (("Optimizer", ""), ("N", "ranks"), ("Formula", "per rank"), ("Times", "steps or rounds"),
         ("Collective", ""), ("Formula", "bytes"), ("Measured", "bytes"), ("Difference", "")),
        tuple(lines), frozenset(breaks))


def _notes(rows: Sequence[SentBytes]) -> str:
    """Say what the formulas leave out, and of which optimizers."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.formula and row.formula.note:
            labels = notes.setdefault(row.formula.note, [])
            labels += [row.label] if row.label not in labels else []
    return "".join(f" {units.listing(labels)} {note}." for note, labels in notes.items())


def _gap(gap: float) -> str:
    return "0" if abs(gap) < 1e-6 else ("+" if gap > 0 else "−") + units.format_size(abs(gap))


def _share(share: float) -> str:
    return "" if abs(share) < 1e-9 else (
        ("+" if share > 0 else "−") + units.digits(100 * abs(share)) + units.THIN + "%")


_SHADES = (0.85, 0.45, 0.2, 0.08)
"""Opacities of a bar's collectives, the one that sends most first; the last for all others."""

_PHASES = {"setup": "v", "warmup": "^", "train": "o", "validate": "D", "eval": "x",
           "checkpoint": "s"}
"""Markers of the phases."""


def step_bytes_figure(
    context: Context, group: CellGroup, rows: Sequence[SentBytes]
) -> Figure | None:
    """Draws bytes of a step by collective, and the formula's total beside them."""
    if not any(row.step_bytes for row in rows):
        return None
    drawing, axes = _rows([row.label for row in rows], right=0.8)
    shades = _shades(rows)
    for at, row in enumerate(rows):
        color, left = context.looks[row.label].color, 0.0
        for collective, shade in shades.items():
            width = row.measured.get(collective, 0.0) * row.units / row.steps
            axes.barh(at, width, left=left, height=0.5, color=color, alpha=shade, linewidth=0)
            left += width
        axes.barh(at, left, height=0.5, facecolor="none", edgecolor=color, linewidth=1)
        expected = sum(row.expected.values()) * row.units / row.steps
        if expected:
            axes.plot([expected, expected], [at - 0.4, at + 0.4], color=INK, linewidth=2, zorder=4)
        axes.annotate(units.format_size(left), (1, at),
                      xycoords=("axes fraction", "data"), xytext=(8, 0), va="center",
                      textcoords="offset points", color=INK, annotation_clip=False)
    scale(
        axes,
        "x",
        units.format_size,
        limits=(0, max(row.step_bytes for row in rows) * 1.05),
        ticks=4,
    )
    heading(axes, "ideal wire bytes sent per rank in one step")
    key = ", ".join(collective.replace("_", "-") for collective in shades)
    return finish(
        drawing,
        f"{context.prefix}-n{group.ranks}-bytes-step",
        f"{context.suite.name}, N = {group.ranks}: bytes of a step by collective",
        formula_agreement(rows)
        + (" Upright line: the formula." if any(r.expected for r in rows) else "")
        + f" From dark to pale: {key}.",
        {},
        basis=f"One training of each optimizer. {context.conditions}",
        data=_steps_table(context, rows),
    )


def _shades(rows: Sequence[SentBytes]) -> dict[str, float]:
    """Gives each collective that sends anything its opacity, the most used ones first."""
    totals = {collective: sum(row.measured.get(collective, 0.0) for row in rows)
              for row in rows for collective in row.measured}
    used = sorted((c for c, total in totals.items() if total), key=lambda c: (-totals[c], c))
    return {collective: _SHADES[min(at, len(_SHADES) - 1)] for at, collective in enumerate(used)}


def formula_agreement(rows: Sequence[SentBytes]) -> str:
    """Says in one sentence how far the bytes measured are from the formulas."""
    known = [(abs(row.difference), row) for row in rows if row.difference is not None]
    unknown = sorted({row.label for row in rows if row.difference is None})
    if not known:
        return f"No formula is known for {units.listing(unknown)}."
    exact = [row for gap, row in known if gap < 1e-9]
    text = f"{len(exact)} of {len(known)} meet their formula to the byte"
    worst, row = max(known, key=lambda pair: pair[0])
    if worst >= 1e-9:
        text += (f"; the largest difference is {units.digits(100 * worst, 2)}{units.THIN}%, "
                 f"{row.label} at N = {row.ranks}")
    return text + (f"; none is known for {units.listing(unknown)}." if unknown else ".")


def phase_bytes_figure(context: Context, group: CellGroup) -> Figure | None:
    """Draws the bytes of one training by phase on a logarithmic axis; None if none moved."""
    totals = {cell.label: {phase: sum(t.ideal_bytes for t in moved.values())
                           for phase, moved in cell.communication[1].items()
                           if phase in _PHASES}
              for cell in group.cells
              if cell.communication and not cell.communication[0].uncounted}
    values = [sent for sums in totals.values() for sent in sums.values() if sent > 0]
    if not values:
        return None
    drawing, axes = _rows(list(totals), right=0.3)
    for at, (label, sums) in enumerate(totals.items()):
        for phase, sent in sums.items():
            if sent > 0:
                color = context.looks[label].color
                axes.plot([sent], [at], linestyle="", marker=_PHASES[phase], markersize=7,
                          markerfacecolor=color if phase == "train" else "none",
                          markeredgecolor=color, markeredgewidth=1.4, zorder=3)
    low, high = min(values), max(values)
    scale(axes, "x", units.format_size, log=True, limits=(low / 1.8, high * 1.8), ticks=4)
    heading(axes, "ideal wire bytes sent per rank in one training")
    train, total = (math.fsum(sum(sums.get(phase, 0.0) for phase in which)
                              for sums in totals.values())
                    for which in (("train",), tuple(_PHASES)))
    least, label = min((sums["train"], label) for label, sums in totals.items()
                       if sums.get("train")) if train else (0.0, "")
    text = (f"Fewest in training: {label}, {units.format_size(least)}. " if label else "")
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-bytes-phase",
        f"{context.suite.name}, N = {group.ranks}: bytes of one training by phase",
        f"{text}Training makes {units.format_percent(train / total)} of all bytes; only these are "
        "compared. Filled: training; triangle upwards: warm-up, downwards: setup; cross: "
        "evaluation; square: checkpoints.", {},
        basis=f"One training of each optimizer, to its end. {context.conditions}",
        data=_phases_table(context, group, totals))


def _rows(labels: Sequence[str], right: float) -> tuple[Drawing, Axes]:
    names = [plain(label, 20) for label in labels]
    drawing, axes = panel(4.9, 0.27 * len(labels) + 0.72, bottom=0.34, top=0.34, right=right,
                          left=0.14 + 0.07 * max(len(name) for name in names))
    axes.set_yticks(range(len(labels)), names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(False, axis="y")
    return drawing, axes


def _steps_table(context: Context, rows: Sequence[SentBytes]) -> Table:
    return Table(
        "bytes-step", "Data: bytes of a step",
        "Sent per rank, over all collectives; the formula's bytes of a round of local steps are "
        "shared among its steps.",
        (("Optimizer", ""), ("N", "ranks"), ("Measured", "bytes of a step"),
         ("Formula", "bytes of a step"), ("Steps", ""), ("Rounds", "of local steps")),
        tuple((name(row.label, suite=context.suite.name),
               number(str(row.ranks), ranks=row.ranks),
               number(units.format_size(row.step_bytes), measured_bytes=row.step_bytes),
               _formula(row), number(f"{row.steps:,}", steps=row.steps),
               number(f"{row.units:,}" if row.unit == "round" else units.NONE,
                      rounds=row.units if row.unit == "round" else None))
              for row in rows))


def _formula(row: SentBytes) -> Value:
    if not row.expected:
        return number("none known", formula_bytes=None)
    expected = sum(row.expected.values()) * row.units / row.steps
    return number(units.format_size(expected), formula_bytes=expected)


def _phases_table(
    context: Context, group: CellGroup, totals: dict[str, dict[str, float]]
) -> Table:
    used = [phase for phase in _PHASES if any(phase in sums for sums in totals.values())]
    return Table(
        "bytes-phase", "Data: bytes by phase", "Ideal wire bytes sent per rank, to the end of "
        "the training.",
        (("Optimizer", ""), ("N", "ranks"), *((phase, "") for phase in used)),
        tuple((name(label, suite=context.suite.name), number(str(group.ranks), ranks=group.ranks),
               *(Value(units.format_size(sent), numbers={f"{phase}_bytes": sent})
                 for phase in used for sent in (sums.get(phase, 0.0),)))
              for label, sums in totals.items()))


SECTION = Section("traffic", "Communication", order=80)


def part(context: Context) -> Part | None:
    """Returns the section; None where no collective was recorded."""
    detail = trial_detail.communication_table(context.groups)
    if detail is None:
        return None
    rows = bytes_sent(context.groups)
    blocks: list[Block] = []
    for group in context.groups:
        mine = [row for row in rows if row.ranks == group.ranks]
        drawn = tuple(
            figure
            for figure in (
                step_bytes_figure(context, group, mine),
                phase_bytes_figure(context, group),
            )
            if figure
        )
        if drawn:
            blocks.append(Pictures(drawn, f"N = {group.ranks}", wide=True))
    if rows:
        blocks.append(Listing(formula_table(context, rows)))
    blocks.append(Listing(detail))
    return SECTION.part(_finding(rows), tuple(blocks))


def _finding(rows: Sequence[SentBytes]) -> str:
    if not rows:
        return "No training sent a byte to another rank."
    last = max(row.ranks for row in rows)
    most, least = (choose((row.step_bytes, row.label) for row in rows if row.ranks == last)
                   for choose in (max, min))
    sends = (
        f"from {units.format_size(least[0])} ({least[1]}) to "
        f"{units.format_size(most[0])} ({most[1]})"
        if units.format_size(least[0]) != units.format_size(most[0])
        else units.format_size(most[0])
    )
    return (f"A step at N = {last} sends {sends} per rank; "
            f"over all N > 1, {_lower(formula_agreement(rows))}")


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
