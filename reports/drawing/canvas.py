"""Drawing surface of all figures: theme, scales, and from a drawn figure to its files."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from bench_apts.core import units

from . import svg
from .style import GRID, INK, MUTED
from .ticks import Round, log_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from ..table import Table
    from .style import Look

_THEME: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linestyle": "-",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.bottom": False,
    "ytick.left": False,
    "text.usetex": False,
    "text.parse_math": False,
}

_MARGIN = 0.2  # inches around a figure's file


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes:
        slug: Name of its files and prefix of its ids.
        title: What it shows.
        caption: What to see in it, with what was left out.
        inline: The ``<svg>`` element for the page.
        files: File name to content: the same figure with legend and white ground, as SVG.
        basis: What it rests on: number of trials or seeds, target, cap.
        data: The numbers that are drawn.
        drawing: What matplotlib drew, and the part of it in inches that its files show.
    """

    slug: str
    title: str
    caption: str
    inline: str
    files: dict[str, bytes]
    basis: str = ""
    data: Table | None = None
    drawing: tuple[Drawing, Bbox] = field(kw_only=True, repr=False, compare=False)


@contextmanager
def theme() -> Iterator[None]:
    """Applies the look of the report's figures, and nothing that a user has configured."""
    with mpl.rc_context():
        mpl.rcdefaults()
        with sns.axes_style("whitegrid", _THEME), mpl.rc_context(_THEME):
            yield


def panel(width: float = 3.7, height: float = 2.6, *, left: float = 0.5, right: float = 0.16,
          bottom: float = 0.46, top: float = 0.3) -> tuple[Drawing, Axes]:
    """Returns an empty drawing with one set of axes; sizes and margins in inches.

    Fixed margins make the panels of a row line up, whatever their labels are.
    """
    drawing = Drawing(figsize=(width, height))
    FigureCanvasAgg(drawing)
    axes = drawing.subplots()
    drawing.subplots_adjust(left=left / width, right=1 - right / width,
                            bottom=bottom / height, top=1 - top / height)
    return drawing, axes


def heading(axes: Axes, text: str) -> None:
    """Says what is shown, at the upper left, where it reads horizontally."""
    # In points from the axes: fractions of the figure move when a file is cut to its content.
    margin = axes.get_position().x0 * axes.figure.bbox.width * 72 / axes.figure.dpi
    axes.annotate(text, (0, 1), xycoords="axes fraction", xytext=(-margin, 7),
                  textcoords="offset points", color=MUTED, annotation_clip=False)


def scale(axes: Axes, which: str, form: Callable[[float], str], *, log: bool = False,
          limits: tuple[float, float] | None = None, ticks: int = 5) -> None:
    """Sets one axis: its limits, a linear or logarithmic scale, and ticks in words of ``form``.

    Limits that begin at zero, as where the untrained model met the target, make it linear.
    """
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
        axis.set_major_locator(Round(ticks, form))
    axis.set_major_formatter(FuncFormatter(lambda value, _: units.trim(form(value))))


def headroom(low: float, high: float, share: float) -> tuple[float, float]:
    """Return limits of a logarithmic axis with ``share`` of its length left free above ``high``.

    From a ``low`` of zero on those of a linear one, which ``scale`` then makes it.
    """
    room = share / (1 - share)
    return low, high * (high / low) ** room if low > 0 else high * (1 + room)


def finish(drawing: Drawing, slug: str, title: str, caption: str,
           legend: Mapping[str, Look], *, basis: str = "", data: Table | None = None) -> Figure:
    """Writes a drawing as SVG with legend and white ground, and without them for the page."""
    width, height = drawing.get_size_inches()
    apart: list[Artist] = [
        drawing.suptitle(title, x=0.02, y=1.04, ha="left", va="bottom", fontsize=9.5)]
    if legend:
        handles = [handle(look, label) for label, look in legend.items()]
        apart.append(drawing.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.02, -0.02),
            ncols=min(len(handles), 4), frameon=False, fontsize=8, handlelength=3.2))
    for name, artist in zip(svg.APART, (drawing.patch, *apart), strict=False):
        artist.set_gid(name)
    # To measure all artists takes as long as to draw them; these stand outside of the figure.
    bounds = Bbox.union([drawing.bbox_inches, *(
        artist.get_window_extent().transformed(drawing.dpi_scale_trans.inverted())
        for artist in apart)]).padded(_MARGIN)
    whole = _svg(drawing, slug, facecolor="white", bbox_inches=bounds)
    view = (f"{-72 * bounds.x0:.2f} {72 * (bounds.y1 - height):.2f} "
            f"{72 * width:.2f} {72 * height:.2f}")
    return Figure(slug, title, caption, svg.inline(whole, slug, title, caption, view),
                  {f"{slug}.svg": whole.encode()}, basis, data, drawing=(drawing, bounds))


def png(figure: Figure) -> bytes:
    """Draws a figure's file once more in pixels, 150 to the inch; within ``theme`` only."""
    drawing, bounds = figure.drawing
    picture = io.BytesIO()
    drawing.savefig(picture, format="png", dpi=150, facecolor="white", bbox_inches=bounds,
                    metadata={"Software": None})
    return picture.getvalue()


def swatch(look: Look, slug: str, label: str) -> str:
    """Returns the legend's piece of line with marker as an SVG symbol of this id."""
    drawing = Drawing(figsize=(0.5, 0.16))
    FigureCanvasAgg(drawing)
    axes = drawing.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.add_line(handle(look, label, [0.04, 0.5, 0.96], [0.5, 0.5, 0.5]))
    axes.lines[0].set_markevery([1])
    axes.lines[0].set_markersize(6.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return svg.symbol(_svg(drawing, slug), slug)


def handle(look: Look, label: str, xs: list[float] | None = None,
           ys: list[float] | None = None) -> Line2D:
    """Returns a line that looks as this optimizer's lines do."""
    return Line2D(xs or [], ys or [], color=look.color, linestyle=look.dashes,
                  marker=look.marker, markersize=5, markeredgewidth=0, label=plain(label))


def plain(label: str, width: int = 26) -> str:
    """Shortens a label in its middle, as ends tell more apart; drops what cannot be drawn."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in label)
    if len(shown) <= width:
        return shown
    tail = width // 2
    return f"{shown[:width - 1 - tail]}…{shown[-tail:]}"


def _svg(drawing: Drawing, slug: str, **options: Any) -> str:
    buffer = io.StringIO()
    # Salt and no date: the same records give the same bytes.
    with mpl.rc_context({"svg.hashsalt": slug}):
        drawing.savefig(buffer, format="svg", metadata={
            "Date": None, "Creator": None, "Format": None, "Type": None}, **options)
    return buffer.getvalue()
