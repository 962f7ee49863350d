"""What all figures share: theme, axes, optimizers' lines and marks, and their files.

Importing this module does not import matplotlib, which takes longer than all tables of a report.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core import units
from bench_apts.reports import page_svg
from bench_apts.reports.figure_style import GRID, INK, MUTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox
    from numpy.typing import ArrayLike, NDArray

    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.table import Table

_THEME: Any = {
    "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 8.5,
    "text.color": INK, "text.usetex": False, "text.parse_math": False,
    "axes.labelsize": 8.5, "axes.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.linewidth": 0.8,
    "axes.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "grid.color": GRID, "grid.linewidth": 0.7, "lines.linewidth": 1.8,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8, "ytick.labelsize": 8}

_MARGIN = 0.2  # inches around a figure's file


@dataclass(frozen=True)
class Figure:
    """A figure, which is drawn only when its SVG or PNG is asked for.

    Attributes:
        draw: Draws it.
        slug: Name of its files and prefix of its ids.
        title: What it shows.
        caption: What to see in it, with what was left out.
        legend: The looks in its files' legend, by label; the page has one for all.
        basis: What it rests on: number of trials or seeds, target, cap.
        data: The numbers that are drawn.
        choice: The option of a switch that shows it, for instance ``"samples"``; see ``Pictures``.
    """

    draw: Callable[[], Drawing] = field(repr=False, compare=False)
    slug: str
    title: str
    caption: str
    legend: Mapping[str, Look]
    basis: str = ""
    data: Table | None = None
    choice: str = ""

    @cached_property
    def rendered(self) -> tuple[str, str]:
        """The SVG with legend and white ground, and the ``viewBox`` of it without the legend."""
        with theme():
            drawing, bounds = _finish(self.draw(), self.title, self.legend)
            width, height = drawing.get_size_inches()
            view = (f"{-72 * bounds.x0:.2f} {72 * (bounds.y1 - height):.2f} "
                    f"{72 * width:.2f} {72 * height:.2f}")
            return _svg(drawing, self.slug, facecolor="white", bbox_inches=bounds), view

    @cached_property
    def inline(self) -> str:
        """The ``<svg>`` element for the page, without legend and ground."""
        svg, view = self.rendered
        return page_svg.inline(svg, self.slug, self.title, view)

    def file(self) -> bytes:
        """Return its SVG file."""
        return self.rendered[0].encode()

    def png(self) -> bytes:
        """Draw its file in pixels, 150 to the inch."""
        picture = io.BytesIO()
        with theme():
            drawing, bounds = _finish(self.draw(), self.title, self.legend)
            drawing.savefig(picture, format="png", dpi=150, facecolor="white",
                            bbox_inches=bounds, metadata={"Software": None})
        return picture.getvalue()


@contextmanager
def theme() -> Iterator[None]:
    """Apply the look of the report's figures, and nothing that a user has configured."""
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context():
        mpl.rcdefaults()
        with mpl.rc_context({**sns.axes_style("whitegrid"), **_THEME}):
            yield


def panel(width: float = 3.7, height: float = 2.6, *, left: float = 0.5, right: float = 0.16,
          bottom: float = 0.46, top: float = 0.3) -> tuple[Drawing, Axes]:
    """Return an empty drawing with one set of axes; sizes and margins in inches.

    Fixed margins make the panels of a row line up, whatever their labels are.
    """
    drawing = empty_drawing(width, height)
    axes = drawing.subplots()
    drawing.subplots_adjust(left=left / width, right=1 - right / width,
                            bottom=bottom / height, top=1 - top / height)
    return drawing, axes


def empty_drawing(width: float, height: float) -> Drawing:
    """Return a drawing of this size in inches, without axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height))
    FigureCanvasAgg(drawing)
    return drawing


def heading(axes: Axes, text: str) -> None:
    """Say what is shown, at the upper left, where it reads horizontally."""
    # In points from the axes: fractions of the figure move when a file is cut to its content.
    margin = axes.get_position().x0 * axes.figure.bbox.width * 72 / axes.figure.dpi
    axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(-margin, 7),
                  textcoords="offset points", color=MUTED, annotation_clip=False)


def scale(axes: Axes, which: str, form: Callable[[float], str], *, log: bool = False,
          limits: tuple[float, float] | None = None, ticks: int = 5) -> None:
    """Set one axis: its limits, a linear or logarithmic scale, and ticks in words of ``form``.

    Limits that begin at zero, as where the untrained model met the target, make it linear.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from bench_apts.reports.axis_ticks import RoundTicks, log_ticks

    if limits is not None:
        low, high = limits
        log, limits = log and low > 0, (low, high if high != low else low + 1)
    axis = axes.xaxis if which == "x" else axes.yaxis
    bound = axes.set_xlim if which == "x" else axes.set_ylim
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if which == "y":
        # seaborn names the axis after the column; the heading does that in words.
        axes.set_ylabel("")
    if limits is not None:
        bound(*limits)
    if log:
        low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
        axis.set_major_locator(FixedLocator(log_ticks(low, high, ticks, form)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(RoundTicks(ticks, form))
    axis.set_major_formatter(FuncFormatter(lambda value, _: units.trim(form(value))))


def headroom(low: float, high: float, share: float) -> tuple[float, float]:
    """Return limits of a logarithmic axis with ``share`` of its length left free above ``high``.

    From a ``low`` of zero on those of a linear one, which ``scale`` then makes it.
    """
    room = share / (1 - share)
    return low, high * (high / low) ** room if low > 0 else high * (1 + room)


def draw_lines(axes: Axes, data: pd.DataFrame, x: str, y: str, looks: Mapping[str, Look],
               **options: Any) -> None:
    """Draw a line for each optimizer, in its look.

    Args:
        axes: Where.
        data: Columns ``optimizer``, ``x`` and ``y``, rows in the order of the lines.
        x: Column across.
        y: Column upwards.
        looks: By label.
        **options: Of matplotlib's lines.
    """
    import seaborn as sns

    labels = list(dict.fromkeys(data["optimizer"]))
    if labels:
        # An axis that has a label is left alone; to name one takes as long as to draw the lines.
        axes.set(xlabel=" ", ylabel=" ")
        sns.lineplot(
            data, x=x, y=y, hue="optimizer", style="optimizer", hue_order=labels,
            style_order=labels, palette={label: looks[label].color for label in labels},
            markers={label: looks[label].marker for label in labels},
            dashes={label: looks[label].dashes[1] if looks[label].dashes != "-" else ""
                    for label in labels},
            estimator=None, sort=False, legend=False, ax=axes,
            **{"markersize": 5, "markeredgewidth": 0, "zorder": 3} | options)


def draw_seeds(axes: Axes, runs: Sequence[NDArray[np.float64]], look: Look) -> None:
    """Draw the lines of single seeds thin; each run has the shape ``(points, 2)``."""
    # One path with gaps: a path for each seed would make the page several times as heavy.
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([part for run in runs for part in (run, gap)])
    axes.plot(*points.T, color=look.color, linewidth=0.7, alpha=0.35)


def draw_marks(axes: Axes, xs: ArrayLike, ys: ArrayLike, look: Look, *, size: float = 6,
               marker: str = "", hollow: bool = False, **options: Any) -> None:
    """Draw an optimizer's mark, or another ``marker`` in its colour, at each of some points.

    Not by seaborn's ``scatterplot``, which writes a path for each point into the page.
    """
    thin = hollow or (marker and marker in "x+|_")
    axes.plot(xs, ys, linestyle="", marker=marker or look.marker, markersize=size,
              color=look.color, markerfacecolor="none" if hollow else look.color,
              markeredgewidth=1.3 if thin else 0, **{"zorder": 3, **options})


def _finish(drawing: Drawing, title: str, legend: Mapping[str, Look]) -> tuple[Drawing, Bbox]:
    """Add title and legend to a drawing; return it and what its files show of it, in inches."""
    from matplotlib.transforms import Bbox

    artists: list[Artist] = [
        drawing.suptitle(title, x=0.02, y=1.04, ha="left", va="bottom", fontsize=9.5)]
    if legend:
        handles = [handle(look, label) for label, look in legend.items()]
        artists.append(drawing.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.02, -0.02),
            ncols=min(len(handles), 4), frameon=False, fontsize=8, handlelength=3.2))
    for name, artist in zip(page_svg.FILE_ONLY, (drawing.patch, *artists), strict=False):
        artist.set_gid(name)
    # To measure all artists takes as long as to draw them; these stand outside of the figure.
    bounds = Bbox.union([drawing.bbox_inches, *(
        artist.get_window_extent().transformed(drawing.dpi_scale_trans.inverted())
        for artist in artists)]).padded(_MARGIN)
    return drawing, bounds


def swatch(look: Look, slug: str, label: str) -> str:
    """Return the legend's piece of line with marker as an SVG symbol of this id."""
    with theme():
        drawing = empty_drawing(0.5, 0.16)
        axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.axis("off")
        axes.add_line(handle(look, label, [0.04, 0.5, 0.96], [0.5, 0.5, 0.5]))
        axes.lines[0].set_markevery([1])
        axes.lines[0].set_markersize(6.5)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        return page_svg.symbol(_svg(drawing, slug), slug)


def handle(look: Look, label: str, xs: list[float] | None = None,
           ys: list[float] | None = None) -> Line2D:
    """Return a line that looks as this optimizer's lines do."""
    from matplotlib.lines import Line2D

    return Line2D(xs or [], ys or [], color=look.color, linestyle=look.dashes,
                  marker=look.marker, markersize=5, markeredgewidth=0, label=plain(label))


def plain(label: str, width: int = 26) -> str:
    """Shorten a label in its middle, as its ends differ most; replace what cannot be drawn."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in label)
    if len(shown) <= width:
        return shown
    tail = width // 2
    return f"{shown[:width - 1 - tail]}…{shown[-tail:]}"


def _svg(drawing: Drawing, slug: str, **options: Any) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Salt and no date: the same records give the same bytes.
    with mpl.rc_context({"svg.hashsalt": slug}):
        drawing.savefig(buffer, format="svg", metadata={
            "Date": None, "Creator": None, "Format": None, "Type": None}, **options)
    return buffer.getvalue()
