"""Figures of Pareto fronts, with the table behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import basis

from ..drawing.canvas import Figure, finish, heading, panel, plain, scale
from ..drawing.style import INK, MUTED
from ..findings import misses
from ..table import Table, Value, name, number, words
from .fronts import across

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from ..cells import Group
    from ..context import Context
    from .fronts import Across, Against, Point

WORDS: dict[Against, str] = {"bytes": "ideal wire bytes per rank to the target",
                             "memory": "memory of a rank"}

_ACROSS: dict[Across, tuple[str, Callable[[float], str]]] = {
    "train_s": ("training time", units.seconds), "samples": ("samples", units.count)}

_HELD = " Memory is that of the tensors of model and optimizer, not of activations."

_SPREAD = 8
"""Ratio of largest to smallest beyond which an axis is logarithmic."""


def figure(context: Context, group: Group, against: Against,
           points: Sequence[Point]) -> Figure | None:
    """Draws time or samples to the target against bytes or memory, and the front.

    None without points.
    """
    noun, form = _ACROSS[across(group)]
    if not points or not any(point.other[0] for point in points):
        return None
    drawing, axes = panel(4.9, 3.0, left=0.62)
    front = sorted((p for p in points if p.front), key=lambda p: p.across[0])
    for point in points:
        look = context.looks[point.cell.label]
        (time, least, most), (other, low, high) = point.across, point.other
        axes.plot([least, most], [other, other], color=look.color, linewidth=1, alpha=0.5)
        axes.plot([time, time], [low, high], color=look.color, linewidth=1, alpha=0.5)
        axes.plot([time], [other], linestyle="", marker=look.marker, color=look.color,
                  markersize=9 if point.front else 6, zorder=3, markeredgewidth=0,
                  alpha=1 if point.front else 0.75)
    _axis(axes, "x", [value for p in points for value in p.across], form)
    _axis(axes, "y", [value for p in points for value in p.other], units.size)
    _names(axes, front)
    _staircase(axes, front)
    axes.set_xlabel(f"{noun} to the target")
    heading(axes, WORDS[against])
    return finish(
        drawing, f"{context.prefix}-n{group.ranks}-front-{against}",
        f"{context.suite.name}, N = {group.ranks}: {noun} to the target against "
        f"{WORDS[against]}", _caption(group, front) + (
            _HELD if against == "memory" and context.gathered.device == "cpu" else ""), {
            p.cell.label: context.looks[p.cell.label] for p in points},
        basis=basis.seeds(context, [group]), data=_table(context, group, against, points))


def _names(axes: Axes, front: Sequence[Point]) -> None:
    """Names the points of the front below them, further down where a name stands already."""
    placed: list[tuple[float, float, float]] = []
    for point in front:
        label, place = plain(point.cell.label), (point.across[0], point.other[0])
        # All in points, of which a letter takes about five.
        x, y = axes.transData.transform(place) * 72 / axes.figure.dpi
        drop, width = 9.0, 5.0 * len(label)
        while any(abs(x - left) < (width + other) / 2 and abs(y - drop - top) < 10
                  for left, top, other in placed):
            drop += 10
        placed.append((x, y - drop, width))
        axes.annotate(label, place, xytext=(0, -drop), textcoords="offset points", ha="center",
                      va="top", color=INK, fontsize=8, zorder=4)


def _staircase(axes: Axes, front: Sequence[Point]) -> None:
    """Draws the edge of what the front beats, which is everything above and to its right."""
    (_, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    axes.plot([front[0].across[0], *(p.across[0] for p in front), right],
              [top, *(p.other[0] for p in front), front[-1].other[0]], color=MUTED,
              linewidth=1.1, linestyle=(0, (3, 2)), drawstyle="steps-post", zorder=2)


def _axis(axes: Axes, which: str, values: Sequence[float],
          form: Callable[[float], str]) -> None:
    low, high = min(values), max(values)
    if low > 0 and high > _SPREAD * low:
        scale(axes, which, form, log=True, limits=(low / 1.5, high * 1.3))
    else:
        room = 0.1 * ((high - low) or high or 1.0)
        # A label stands below each point of the front.
        scale(axes, which, form, limits=(max(0.0, low - 2 * room), high + room))


def _caption(group: Group, front: Sequence[Point]) -> str:
    text = (f"Pareto-optimal: {units.listing([p.cell.label for p in front])}.")
    missed = [f"{cell.label} ({misses(sum(o.hit for o in cell.finals), len(cell.seeds))})"
              for cell in group.cells if cell.seeds
              and cell.to_target("train_s").median == float("inf")]
    return text + (f" Not drawn, as the median seed missed: {units.listing(missed)}."
                   if missed else "")


def _table(context: Context, group: Group, against: Against,
           points: Sequence[Point]) -> Table:
    noun, form = _ACROSS[across(group)]
    column = "wire_bytes_to_target" if against == "bytes" else "memory_bytes"
    return Table(
        f"front-{against}", f"Data: {noun} and {against}",
        "Medians over seeds" + (", and the largest memory of any seed" if against == "memory"
                                else "") + ". Seeds on the front: of the seeds of one repetition, "
        "how often this one's was beaten by nobody.",
        (("Optimizer", ""), ("N", "ranks"), (f"{noun[:1].upper()}{noun[1:]}", "to target"),
         (("Bytes", "per rank to target") if against == "bytes" else ("Memory", "of a rank")),
         ("Front", ""), ("Seeds", "on the front"), ("Beaten by", "in both")),
        tuple((
            name(point.cell.label, suite=context.suite.name),
            number(str(point.cell.ranks), ranks=point.cell.ranks),
            Value(form(point.across[0]), units.between(*map(form, point.across[1:])), {
                "train_s_to_target": point.cell.to_target("train_s").median,
                "samples_to_target": point.cell.to_target("samples").median}),
            Value(units.size(point.other[0]), units.between(*map(units.size, point.other[1:])),
                  {column: point.other[0]}),
            words("yes" if point.front else "no", on_front=point.front),
            number(f"{point.seeds_on_front} of {len(point.cell.seeds)}",
                   seeds_on_front=point.seeds_on_front, seeds=len(point.cell.seeds)),
            words(", ".join(point.beaten_by) or "nobody", beaten_by=", ".join(point.beaten_by)))
            for point in points))
