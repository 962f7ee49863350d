"""Figures of a comparison: the ratio B to A of each optimizer, by one measure at one N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units

from ..drawing.canvas import Figure, finish, heading, panel, plain, scale
from ..drawing.style import INK
from . import tables, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from ..drawing.style import Look
    from .compared import Row


def ratios(rows: Sequence[Row], measure: str, looks: Mapping[str, Look],
           slug: str) -> Figure | None:
    """Draws B over A for each optimizer, with the interval; None where no ratio is known.

    Args:
        rows: Those of one suite at one N.
        measure: What the names of the measures begin with.
        looks: Each optimizer's look, by B's label.
        slug: Name of the figure.
    """
    mine = [row for row in rows if row.measure.name.startswith(measure)]
    drawn = [row for row in mine if 0 < row.measure.effect < math.inf]
    if not drawn:
        return None
    labels = [plain(row.match.second.label, 18) for row in drawn]
    drawing, axes = panel(4.6, 0.3 * len(drawn) + 0.78, top=0.32,
                          left=0.14 + 0.07 * max(len(label) for label in labels), right=0.9)
    limits = _limits(drawn)
    for at, row in enumerate(drawn):
        style = looks[row.match.second.label]
        _interval(axes, row, at, style, limits)
        axes.plot([row.measure.effect], [at], marker=style.marker, markersize=7,
                  color=style.color, markeredgewidth=0)
        axes.annotate(text.entries(row)[3], (1, at),
                      xycoords=("axes fraction", "data"), xytext=(8, 0),
                      textcoords="offset points", va="center", color=INK, annotation_clip=False)
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    scale(axes, "x", units.digits, log=True, limits=limits, ticks=5)
    axes.set_yticks(range(len(drawn)), labels)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.grid(False, axis="y")
    title = drawn[0].measure.name
    axes.set_xlabel("B over A; above 1 B needs more")
    heading(axes, title)
    place = drawn[0].match.first
    where = f"{place.suite.name}, N = {place.ranks}"
    return finish(
        drawing, slug, f"{where}: {title}, B over A", _caption(mine, drawn), {},
        basis=f"Trials: {'; '.join(dict.fromkeys(row.measure.basis for row in drawn))}.",
        data=tables.ratios(mine, f"{title}, {where}"))


def _caption(rows: Sequence[Row], drawn: Sequence[Row]) -> str:
    worst = max(drawn, key=lambda row: row.measure.effect)
    left_out = [row.match.second.label for row in rows if row not in drawn]
    parts = [f"Largest ratio: {worst.match.second.label}, {text.entries(worst)[3]} "
             f"({text.entries(worst)[6]})."]
    if any(row.measure.interval for row in drawn):
        parts.append("Bars: 95 % interval; an arrow: it goes on.")
    if left_out:
        parts.append(f"Without a ratio: {units.listing(left_out)}.")
    return " ".join(parts)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Ends of the axis: around 1, all ratios, and all ends of intervals that a log scale has."""
    ends = [end for row in rows for end in (
        row.measure.effect, *([row.measure.interval.low, row.measure.interval.high]
                              if row.measure.interval else [])) if 0 < end < math.inf]
    return min(*ends, 0.9) / 1.1, max(*ends, 1 / 0.9) * 1.1


def _interval(axes: Axes, row: Row, at: int, look: Look, limits: tuple[float, float]) -> None:
    """Draws a row's interval, with an arrow where it goes on beyond the axis."""
    interval, (low, high) = row.measure.interval, limits
    if not interval:
        return
    axes.plot([max(interval.low, low), min(interval.high, high)], [at, at],
              color=look.color, linewidth=2, alpha=0.6, solid_capstyle="butt")
    for beyond, end, marker in ((interval.low < low, low, "<"), (interval.high > high, high, ">")):
        if beyond:
            axes.plot([end], [at], marker=marker, markersize=5, color=look.color,
                      markeredgewidth=0, clip_on=False)
