"""Communication: bytes by collective and phase, and against what the methods must send."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.reports import canvas, panel_rows
from bench_apts.reports.cost_tables import UNCOUNTED
from bench_apts.reports.figure_style import INK
from bench_apts.reports.section_parts import Listing, Pictures, Section, opening
from bench_apts.reports.table import Table, Value, grouped_table, known, mono, name, number, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.records import Traffic
    from bench_apts.plugins.optimizer_contract import TrafficFormula
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Block, Context, Part

SECTION = Section("traffic", "Communication", order=80)

_SHADES = (0.85, 0.45, 0.2, 0.08)
"""Opacities of a bar's collectives, the one that sends most first; the last for all others."""

_PHASES = {"setup": "v", "warmup": "^", "train": "o", "validate": "D", "eval": "x",
           "checkpoint": "s"}
"""The phases in their order, with their markers."""


class SentBytes(NamedTuple):
    """What one optimizer sent in training at one N, by collective.

    Attributes:
        label: The optimizer.
        ranks: N.
        formula: What it must send; None where that is not known.
        unit: What the formula is for: ``"step"``, or ``"round"`` of local steps.
        units: How many of them there were.
        steps: Optimizer steps.
        measured: Ideal bytes sent per rank and unit.
        expected: What the formula says of the same; empty without a formula.
    """

    label: str
    ranks: int
    formula: TrafficFormula | None
    unit: str
    units: int
    steps: int
    measured: Mapping[str, float]
    expected: Mapping[str, float]

    def of_step(self, sent: Mapping[str, float]) -> float:
        """Return bytes of an optimizer step, of all collectives, given those of a unit."""
        return sum(sent.values()) * self.units / self.steps

    @property
    def difference(self) -> float | None:
        """By what share the bytes measured differ from the formula's; None without one."""
        total = sum(self.expected.values())
        return sum(self.measured.values()) / total - 1 if total else None


def part(context: Context) -> Part | None:
    """Build the section; None where no collective was recorded."""
    detail = _communication_table(context.groups)
    if not detail.rows:
        return None
    rows = [sent for group in context.groups for cell in group.cells if (sent := _sent(cell))]
    blocks: list[Block] = []
    for group in context.groups:
        mine = [row for row in rows if row.ranks == group.ranks]
        if drawn := [figure for figure in (_step_figure(context, group, mine),
                                           _phase_figure(context, group)) if figure]:
            blocks.append(Pictures(tuple(drawn), f"N = {group.ranks}"))
    if rows:
        blocks.append(Listing(_formula_table(context, rows)))
    return SECTION.part(_finding(rows), [*blocks, Listing(detail)])


def _sent(cell: ReportCell) -> SentBytes | None:
    """Read one training of an optimizer; None where it sent nothing, as one rank alone does."""
    if cell.communication is None or cell.ranks == 1:
        return None
    record, comm = cell.communication
    sent, steps = comm.get("train", {}), record.evals[-1].step if record.evals else 0
    backend = cell.backend
    formula = backend.formula(record.trial.hyperparameters) if backend else None
    # Of a method with rounds, each is a call of the first collective that the formula names.
    size = record.start.parameters if record.start else 0
    named = next(iter(formula.payloads(size, cell.ranks)), "") if formula else ""
    rounds = formula is not None and formula.unit == "round" and named in sent
    count = sent[named].calls if rounds else steps
    if record.uncounted or not sent or not count or not steps:
        return None
    return SentBytes(
        cell.label, cell.ranks, formula, formula.unit if formula else "step", count, steps,
        {collective: traffic.ideal_bytes / count for collective, traffic in sorted(sent.items())},
        formula.ideal(size, cell.ranks, count) if formula and record.start else {})


def _finding(rows: Sequence[SentBytes]) -> str:
    if not rows:
        return "No training sent a byte to another rank."
    last = max(row.ranks for row in rows)
    found = sorted((row.of_step(row.measured), row.label) for row in rows if row.ranks == last)
    (least, low), (most, high) = ((units.format_size(sent), label)
                                  for sent, label in (found[0], found[-1]))
    sends = most if least == most else f"from {least} ({low}) to {most} ({high})"
    agreement = _agreement(rows)
    return (f"A step at N = {last} sends {sends} per rank; over all N > 1, "
            f"{agreement[0].lower()}{agreement[1:]}")


def _agreement(rows: Sequence[SentBytes]) -> str:
    """Say in one sentence how far the bytes measured are from the formulas."""
    gaps = [(abs(row.difference), row) for row in rows if row.difference is not None]
    unknown = sorted({row.label for row in rows if row.difference is None})
    if not gaps:
        return f"No formula is known for {units.listing(unknown)}."
    exact = sum(gap < 1e-9 for gap, _ in gaps)
    text = f"{exact} of {len(gaps)} meet their formula to the byte"
    worst, row = max(gaps, key=lambda pair: pair[0])
    if worst >= 1e-9:
        text += (f"; the largest difference is {units.digits(100 * worst, 2)}{units.THIN}%, "
                 f"{row.label} at N = {row.ranks}")
    return text + (f"; none is known for {units.listing(unknown)}." if unknown else ".")


def _step_figure(context: Context, group: CellGroup,
                 rows: Sequence[SentBytes]) -> canvas.Figure | None:
    """Draw bytes of a step by collective, and the formula's total."""
    most = max((row.of_step(row.measured) for row in rows), default=0.0)
    if not most:
        return None
    # The collectives that send anything, the most used ones first.
    totals = {collective: sum(row.measured.get(collective, 0.0) for row in rows)
              for row in rows for collective in row.measured}
    used = sorted((c for c, total in totals.items() if total), key=lambda c: (-totals[c], c))

    def draw() -> Drawing:
        drawing, axes = panel_rows.row_panel([row.label for row in rows], right=0.8)
        for at, row in enumerate(rows):
            color, left = context.looks[row.label].color, 0.0
            for place, collective in enumerate(used):
                width = row.measured.get(collective, 0.0) * row.units / row.steps
                axes.barh(at, width, left=left, height=0.5, color=color, linewidth=0,
                          alpha=_SHADES[min(place, len(_SHADES) - 1)])
                left += width
            axes.barh(at, left, height=0.5, facecolor="none", edgecolor=color, linewidth=1)
            if expected := row.of_step(row.expected):
                axes.plot([expected] * 2, [at - 0.4, at + 0.4], color=INK, linewidth=2, zorder=4)
            panel_rows.write_value(axes, at, units.format_size(left))
        canvas.scale(axes, "x", units.format_size, limits=(0, most * 1.05), ticks=4)
        canvas.heading(axes, "ideal wire bytes sent per rank in one step")
        return drawing

    line = " Upright line: the formula." if any(row.expected for row in rows) else ""
    key = ", ".join(collective.replace("_", "-") for collective in used)
    return context.figure(
        draw, "bytes-step", "bytes of a step by collective",
        f"{_agreement(rows)}{line} From dark to pale: {key}.", ranks=group.ranks,
        basis=f"One training of each optimizer. {context.conditions}",
        data=_steps_table(context, rows))


def _phase_figure(context: Context, group: CellGroup) -> canvas.Figure | None:
    """Draw the bytes of one training by phase on a logarithmic axis; None if none was sent."""
    totals = {cell.label: {phase: sum(t.ideal_bytes for t in sent.values())
                           for phase, sent in cell.communication[1].items() if phase in _PHASES}
              for cell in group.cells
              if cell.communication and not cell.communication[0].uncounted}
    values = [sent for sums in totals.values() for sent in sums.values() if sent > 0]
    if not values:
        return None

    def draw() -> Drawing:
        drawing, axes = panel_rows.row_panel(list(totals), right=0.3)
        for at, (label, sums) in enumerate(totals.items()):
            for phase, sent in sums.items():
                if sent > 0:
                    canvas.draw_marks(axes, [sent], [at], context.looks[label], size=7,
                                      marker=_PHASES[phase], hollow=phase != "train")
        canvas.scale(axes, "x", units.format_size, log=True, ticks=4,
                     limits=(min(values) / 1.8, max(values) * 1.8))
        canvas.heading(axes, "ideal wire bytes sent per rank in one training")
        return drawing

    train, total = (math.fsum(sums.get(phase, 0.0) for sums in totals.values() for phase in which)
                    for which in (("train",), tuple(_PHASES)))
    text = ""
    if train:
        least, label = min((sums["train"], label) for label, sums in totals.items()
                           if sums.get("train"))
        text = f"Fewest in training: {label}, {units.format_size(least)}. "
    return context.figure(
        draw, "bytes-phase", "bytes of one training by phase",
        f"{text}Training makes {units.format_percent(train / total)} of all bytes; only these are "
        "compared. Filled: training; triangle upwards: warm-up, downwards: setup; cross: "
        "evaluation; square: checkpoints.", ranks=group.ranks,
        basis=f"One training of each optimizer, to its end. {context.conditions}",
        data=_phases_table(context, group, totals))


def _steps_table(context: Context, rows: Sequence[SentBytes]) -> Table:
    return Table(
        "bytes-step", "Data: bytes of a step",
        "Sent per rank, over all collectives; the formula's bytes of a round of local steps are "
        "shared among its steps.",
        (("Optimizer", ""), ("N", "ranks"), ("Measured", "bytes of a step"),
         ("Formula", "bytes of a step"), ("Steps", ""), ("Rounds", "of local steps")),
        tuple((*opening(context, row.label, row.ranks),
               known("measured_bytes", row.of_step(row.measured), units.format_size),
               known("formula_bytes", row.of_step(row.expected) if row.expected else None,
                     units.format_size, absent="none known"),
               number(f"{row.steps:,}", steps=row.steps),
               known("rounds", row.units if row.unit == "round" else None, "{:,}".format))
              for row in rows))


def _phases_table(context: Context, group: CellGroup,
                  totals: Mapping[str, Mapping[str, float]]) -> Table:
    used = [phase for phase in _PHASES if any(phase in sums for sums in totals.values())]
    return Table(
        "bytes-phase", "Data: bytes by phase",
        "Ideal wire bytes sent per rank, to the end of the training.",
        (("Optimizer", ""), ("N", "ranks"), *((phase, "") for phase in used)),
        tuple((*opening(context, label, group.ranks),
               *(known(f"{phase}_bytes", sums.get(phase, 0.0), units.format_size)
                 for phase in used)) for label, sums in totals.items()))


def _formula_table(context: Context, rows: Sequence[SentBytes]) -> Table:
    """Return the formula's bytes and those measured, by collective."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.formula and row.formula.note:
            notes.setdefault(row.formula.note, []).append(row.label)
    remarks = "".join(f" {units.listing([*dict.fromkeys(labels)])} {note}."
                      for note, labels in notes.items())
    return grouped_table(
        "known-traffic", "Bytes against formulas",
        "Ideal bytes sent per rank in training, for one step or for one round of local steps, of "
        "one training of each optimizer. P: bytes of the parameters in float32; f = (N − 1)/N. "
        "A collective without a formula's number, such as the broadcast of a model's buffers, "
        f"comes on top.{remarks}",
        (("Optimizer", ""), ("N", "ranks"), ("Formula", "per rank"), ("Times", "steps or rounds"),
         ("Collective", ""), ("Formula", "bytes"), ("Measured", "bytes"), ("Difference", "")),
        ([_formula_row(context, row, collective)
          for collective in sorted({*row.measured, *row.expected})] for row in rows))


def _formula_row(context: Context, row: SentBytes, collective: str) -> tuple[Value, ...]:
    measured, expected = row.measured.get(collective, 0.0), row.expected.get(collective)
    gap = None if expected is None else measured - expected
    share = 100 * gap / expected if gap and expected else 0.0
    return (
        *opening(context, row.label, row.ranks),
        words(f"{row.formula.words} a {row.unit}" if row.formula else "none known",
              formula=row.formula.words if row.formula else None, unit=row.unit),
        number(f"{row.units:,}", units=row.units),
        words(collective.replace("_", "-"), collective=collective),
        known("expected_bytes", expected, units.format_size),
        known("measured_bytes", measured, units.format_size),
        known("difference_bytes", gap, lambda gap: _signed(gap, units.format_size, 1e-6) or "0",
              _signed(share, lambda value: f"{units.digits(value)}{units.THIN}%", 1e-7)))


def _signed(value: float, form: Callable[[float], str], nothing: float) -> str:
    """Format a number with its sign; "" for what is as small as ``nothing``."""
    return "" if abs(value) < nothing else ("+" if value > 0 else "−") + form(abs(value))


def _communication_table(groups: Sequence[CellGroup]) -> Table:
    """Return bytes by phase and collective of one training of each optimizer."""
    return grouped_table(
        "communication", "Bytes by phase and collective",
        "Of one training of each optimizer, from its first to its last step. Payload: the "
        "logical tensors, as often as they were sent. Ideal: what one rank must send at least, "
        "averaged over ranks; the number that all comparisons use. Bytes to target are those of "
        "the phases train and validate (what a method sends to be evaluated); eval is what the "
        "harness sends.",
        (("Optimizer", ""), ("N", "ranks"), ("Phase", ""), ("Collective", ""), ("Calls", ""),
         ("Payload", "logical tensors"), ("Ideal", "sent per rank"), ("Run", "")),
        (_communication_rows(cell) for group in groups for cell in group.cells
         if cell.communication))


def _communication_rows(cell: ReportCell) -> Iterator[tuple[Value, ...]]:
    assert cell.communication
    record, comm = cell.communication
    order = list(_PHASES)
    for phase in sorted(comm, key=lambda p: (order.index(p) if p in order else 9, p)):
        for collective, traffic in sorted(comm[phase].items()):
            yield (name(cell.label, suite=cell.suite.name),
                   number(str(cell.ranks), ranks=cell.ranks), words(phase, phase=phase),
                   mono(collective, collective=collective),
                   number(f"{traffic.calls:,}", calls=traffic.calls), *_bytes(traffic),
                   mono(record.header.run_id, run_id=record.header.run_id))


def _bytes(traffic: Traffic) -> tuple[Value, Value]:
    """Return payload and ideal bytes; of what is unmeasured only the payload that is known."""
    payload = known("payload_bytes", traffic.payload_bytes, units.format_size)
    if not traffic.unmeasured:
        return payload, known("ideal_bytes", traffic.ideal_bytes, units.format_size)
    if not traffic.payload_bytes:
        payload = Value(UNCOUNTED, numbers={"payload_bytes": None})
    return payload, Value(UNCOUNTED, str(traffic.unmeasured), numbers={"ideal_bytes": None})
