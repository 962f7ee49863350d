"""Figures of the bytes that optimizers send: of a step by collective, of a training by phase."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..drawing.canvas import Figure, finish, heading, panel, plain, scale
from ..drawing.style import INK
from ..table import Table, Value, name, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from ..cells import Group
    from ..context import Context
    from .numbers import Sent

_SHADES = (0.85, 0.45, 0.2, 0.08)
"""Opacities of a bar's collectives, the one that sends most first; the last for all others."""

_PHASES = {"setup": "v", "warmup": "^", "train": "o", "validate": "D", "eval": "x",
           "checkpoint": "s"}
"""Markers of the phases."""


def steps(context: Context, group: Group, rows: Sequence[Sent]) -> Figure | None:
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
        axes.annotate(units.size(left), (1, at),
                      xycoords=("axes fraction", "data"), xytext=(8, 0), va="center",
                      textcoords="offset points", color=INK, annotation_clip=False)
    scale(axes, "x", units.size, limits=(0, max(row.step_bytes for row in rows) * 1.05), ticks=4)
    heading(axes, "ideal wire bytes sent per rank in one step")
    key = ", ".join(collective.replace("_", "-") for collective in shades)
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-bytes-step",
        f"{context.suite.name}, N = {group.ranks}: bytes of a step by collective",
        agreement(rows) + (" Upright line: the formula." if any(r.expected for r in rows) else "")
        + f" From dark to pale: {key}.",
        {},
        basis=f"One training of each optimizer. {context.conditions}",
        data=_steps_table(context, rows))


def _shades(rows: Sequence[Sent]) -> dict[str, float]:
    """Gives each collective that sends anything its opacity, the most used ones first."""
    totals = {collective: sum(row.measured.get(collective, 0.0) for row in rows)
              for row in rows for collective in row.measured}
    used = sorted((c for c, total in totals.items() if total), key=lambda c: (-totals[c], c))
    return {collective: _SHADES[min(at, len(_SHADES) - 1)] for at, collective in enumerate(used)}


def agreement(rows: Sequence[Sent]) -> str:
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


def phases(context: Context, group: Group) -> Figure | None:
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
    scale(axes, "x", units.size, log=True, limits=(low / 1.8, high * 1.8), ticks=4)
    heading(axes, "ideal wire bytes sent per rank in one training")
    train, total = (math.fsum(sum(sums.get(phase, 0.0) for phase in which)
                              for sums in totals.values())
                    for which in (("train",), tuple(_PHASES)))
    least, label = min((sums["train"], label) for label, sums in totals.items()
                       if sums.get("train")) if train else (0.0, "")
    text = (f"Fewest in training: {label}, {units.size(least)}. " if label else "")
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-bytes-phase",
        f"{context.suite.name}, N = {group.ranks}: bytes of one training by phase",
        f"{text}Training makes {units.percent(train / total)} of all bytes; only these are "
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


def _steps_table(context: Context, rows: Sequence[Sent]) -> Table:
    return Table(
        "bytes-step", "Data: bytes of a step",
        "Sent per rank, over all collectives; the formula's bytes of a round of local steps are "
        "shared among its steps.",
        (("Optimizer", ""), ("N", "ranks"), ("Measured", "bytes of a step"),
         ("Formula", "bytes of a step"), ("Steps", ""), ("Rounds", "of local steps")),
        tuple((name(row.label, suite=context.suite.name),
               number(str(row.ranks), ranks=row.ranks),
               number(units.size(row.step_bytes), measured_bytes=row.step_bytes),
               _formula(row), number(f"{row.steps:,}", steps=row.steps),
               number(f"{row.units:,}" if row.unit == "round" else units.NONE,
                      rounds=row.units if row.unit == "round" else None))
              for row in rows))


def _formula(row: Sent) -> Value:
    if not row.expected:
        return number("none known", formula_bytes=None)
    expected = sum(row.expected.values()) * row.units / row.steps
    return number(units.size(expected), formula_bytes=expected)


def _phases_table(context: Context, group: Group, totals: dict[str, dict[str, float]]) -> Table:
    used = [phase for phase in _PHASES if any(phase in sums for sums in totals.values())]
    return Table(
        "bytes-phase", "Data: bytes by phase", "Ideal wire bytes sent per rank, to the end of "
        "the training.",
        (("Optimizer", ""), ("N", "ranks"), *((phase, "") for phase in used)),
        tuple((name(label, suite=context.suite.name), number(str(group.ranks), ranks=group.ranks),
               *(Value(units.size(sent), numbers={f"{phase}_bytes": sent})
                 for phase in used for sent in (sums.get(phase, 0.0),)))
              for label, sums in totals.items()))
