"""Figures of panels one below the other, with a row for each optimizer or policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.reports.canvas import empty_drawing, plain
from bench_apts.reports.figure_style import INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def row_panels(panels: Sequence[Sequence[str]], *, right: float,
               height: float = 0.27) -> tuple[Drawing, list[Axes]]:
    """Return a drawing of panels from the top, each with a row for each of its labels.

    Sizes are in inches. All panels are alike across, so that one axis of values serves them all.
    """
    names = [[plain(label, 20) for label in labels] for labels in panels]
    drawing, found = stacked_panels(
        [height * len(labels) for labels in names], right=right,
        left=0.14 + 0.07 * max(len(name) for labels in names for name in labels))
    for axes, labels in zip(found, names, strict=True):
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(False, axis="y")
    return drawing, found


def stacked_panels(heights: Sequence[float], *, left: float,
                   right: float) -> tuple[Drawing, list[Axes]]:
    """Return a drawing with a panel of each height below the other; sizes in inches."""
    width, above, below = 4.9, 0.38, 0.3
    total = sum(heights) + (above + below) * len(heights)
    drawing, at, found = empty_drawing(width, total), total, []
    for height in heights:
        at -= height + above
        found.append(drawing.add_axes((left / width, at / total, (width - left - right) / width,
                                       height / total)))
        at -= below
    return drawing, found


def row_panel(labels: Sequence[str], *, right: float,
              height: float = 0.27) -> tuple[Drawing, Axes]:
    """Return a drawing with a row for each label, see ``row_panels``."""
    drawing, (axes,) = row_panels([labels], right=right, height=height)
    return drawing, axes


def write_value(axes: Axes, row: int, text: str) -> None:
    """Write a number to the right of its row, so that it need not be read off the axis."""
    axes.annotate(text, (1, row), xycoords=("axes fraction", "data"), xytext=(9, 0),
                  textcoords="offset points", va="center", color=INK, annotation_clip=False)
