"""What figures with a Pareto front share: names of its points, its edge, an axis with a zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports.canvas import plain, scale
from bench_apts.reports.figure_style import INK, MUTED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

Place = tuple[float, float]

_SPREAD = 8
"""Ratio of largest to smallest beyond which an axis is logarithmic."""

_DASHES = (0, (3, 2))


def write_names(axes: Axes, front: Sequence[tuple[str, Place]], *, above: bool = False) -> None:
    """Name points on the side where nothing is beaten, further off where a name stands already.

    Args:
        axes: With their final limits.
        front: Label and place of each point, from left to right.
        above: Names stand above the points and to the left, inside the axes; else below.
    """
    placed: list[tuple[float, float, float]] = []
    sign, left = (1, axes.bbox.x0 * 72 / axes.figure.dpi) if above else (-1, 0.0)
    for label, place in front:
        name = plain(label)
        # All in points, of which a letter takes about five.
        x, y = axes.transData.transform(place) * 72 / axes.figure.dpi
        away, width = 6.0 if above else 9.0, 5.0 * len(name)
        middle = max(x - width / 2, left + width / 2) if above else x
        while any(abs(middle - other) < (width + wide) / 2 and abs(y + sign * away - height) < 10
                  for other, height, wide in placed):
            away += 10
        placed.append((middle, y + sign * away, width))
        axes.annotate(name, place, xytext=(middle - x, sign * away),
                      textcoords="offset points", ha="center",
                      va="bottom" if above else "top", color=INK, fontsize=8, zorder=4)


def draw_edge(axes: Axes, front: Sequence[Place], *, above: bool = False) -> None:
    """Draw the edge of what the front beats.

    Args:
        axes: With their final limits.
        front: Its points from left to right.
        above: More is better upwards, so that all below and to the right is beaten; else all
            above and to the right.
    """
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.plot([front[0][0], *(x for x, _ in front), right],
              [bottom if above else top, *(y for _, y in front), front[-1][1]], color=MUTED,
              linewidth=1.1, linestyle=_DASHES, drawstyle="steps-post", zorder=2)


def scale_to_values(axes: Axes, which: str, values: Sequence[float],
                    form: Callable[[float], str], *, above: bool = False) -> None:
    """Set an axis to some values: logarithmic where they spread, with room for names.

    Args:
        axes: Whose.
        which: ``"x"`` or ``"y"``.
        values: All that is drawn along it.
        form: Writes the ticks.
        above: The room for names is above the values, else below.
    """
    low, high = min(values), max(values)
    if low > 0 and high > _SPREAD * low:
        scale(axes, which, form, log=True, limits=(low / 1.5, high * 1.3))
        return
    room = 0.1 * ((high - low) or high or 1.0)
    under, over = (room, 2 * room) if above else (2 * room, room)
    scale(axes, which, form, limits=(max(0.0, low - under), high + over))


def scale_with_zero(axes: Axes, values: Sequence[float],
                    form: Callable[[float], str]) -> Callable[[float], float]:
    """Make the horizontal axis logarithmic, with a place of its own for zero at the left.

    Args:
        axes: Whose axis.
        values: All that is drawn along it: not negative, at least one positive.
        form: Writes the ticks.

    Returns:
        Where along the axis a value stands: itself, but for zero, which a line sets off.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter

    positive = [value for value in values if value > 0]
    low, high = min(positive), max(positive)
    share = (2 * high / low)**0.12
    at_zero = low / (1.5 * share**2)
    least = low / (1.5 * share) if min(values) > 0 else at_zero / share  # names end at points
    scale(axes, "x", form, log=True, limits=(least, high * 1.5))
    if min(values) == 0:
        ticks = [tick for tick in axes.xaxis.get_majorticklocs() if tick >= low / 1.5]
        axes.xaxis.set_major_locator(FixedLocator([at_zero, *ticks]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if math.isclose(
            value, at_zero) else units.trim(form(value))))
        axes.axvline(low / (1.5 * share), color=MUTED, linewidth=0.8, linestyle=":")
    return lambda value: value if value > 0 else at_zero
