"""Where axes have ticks: round in the unit that their labels show, also for minutes and hours."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from matplotlib.ticker import Locator, MaxNLocator

from bench_apts.core import units
from bench_apts.reports import page_svg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

_NUMBER = re.compile(r"[\d.,]+")
_UNITS = (1.0, 60.0, 3600.0)
_ENOUGH = 1.5  # of a unit, before an axis is divided by it
_NEAREST = 0.1  # decades between two ticks; 50 s and 1 min are nearer


class RoundTicks(Locator):
    """Ticks of a linear axis."""

    def __init__(self, ticks: int, form: Callable[[float], str]) -> None:
        """Ask for about ``ticks`` of them, labelled by ``form``."""
        self._even = MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10])
        # Times change their unit at 60 and 3600; everything else does at powers of ten.
        self._bases = _UNITS if _leading(form, 60.0) == "1" else _UNITS[:1]

    def __call__(self) -> Sequence[float]:
        """Return the ticks of the axis as it stands."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks between two values, round in the largest unit that fits."""
        widest = max(abs(vmin), abs(vmax))
        base = max(base for base in self._bases if base == 1 or base * _ENOUGH <= widest)
        found = self._even.tick_values(vmin / base, vmax / base)
        return [base * float(tick) for tick in found]


def log_ticks(low: float, high: float, ticks: int, form: Callable[[float], str]) -> list[float]:
    """Choose the ticks of a logarithmic axis.

    Args:
        low: Lower limit, positive.
        high: Upper limit.
        ticks: About how many; the finest set is taken that is hardly denser.
        form: Writes their labels.

    Returns:
        Values inside the limits whose labels begin with a round number.
    """
    exponents = range(math.floor(math.log10(low)) - 4, math.ceil(math.log10(high)) + 1)
    bases = _UNITS if _leading(form, 60.0) == "1" else _UNITS[:1]
    candidates = sorted({round(base * lead * 10.0**power, 12)
                         for base in bases for power in exponents for lead in (1, 2, 3, 5, 7)})
    inside = [value for value in candidates
              if low <= value <= high and len(_leading(form, value)) == 1]
    if len(inside) < 2:
        return [value for value in RoundTicks(ticks, form).tick_values(low, high)
                if low <= value <= high]
    found: list[float] = []
    for leading in ("12357", "125", "13", "1"):
        found = _spaced_ticks([value for value in inside if _leading(form, value) in [*leading]])
        if len(found) <= ticks + 1:
            return found
    return found[::math.ceil(len(found) / ticks)]


def _leading(form: Callable[[float], str], value: float) -> str:
    """Return the only digit of a label that is not zero, or more if there are."""
    number = _NUMBER.search(units.trim(form(value)))
    return number[0].replace(".", "").replace(",", "").strip("0") if number else ""


def _spaced_ticks(values: Sequence[float]) -> list[float]:
    """Leave out what lies too near to the one before."""
    kept: list[float] = []
    for value in values:
        if not kept or math.log10(value / kept[-1]) >= _NEAREST:
            kept.append(value)
    return kept


def offer_scale(axes: Axes, form: Callable[[float], str], *, log: bool,
                limits: tuple[float, float], ticks: int = 5) -> None:
    """Let the page show the horizontal axis the other way, linear or logarithmic.

    Args:
        axes: With its final limits and all that is drawn.
        form: Formats a value at a tick.
        log: Whether the other axis is the logarithmic one.
        limits: Of the other axis.
        ticks: About how many it has.
    """
    low, high = limits
    found = (log_ticks(low, high, ticks, form) if log
             else [tick for tick in RoundTicks(ticks, form).tick_values(low, high)
                   if low <= tick <= high])
    place = axes.get_position()
    width = axes.figure.bbox.width * 72 / axes.figure.dpi
    axes.xaxis.set_gid(page_svg.AXIS + json.dumps({
        "log": not log, "x": [round(width * place.x0, 2), round(width * place.x1, 2)],
        "now": [float(end) for end in axes.get_xlim()], "other": [low, high],
        "ticks": [[float(tick), units.trim(form(tick))] for tick in found]}))
    crossing = axes.get_yaxis_transform()
    for artist in (*axes.lines, *axes.collections):
        if artist.get_transform() != crossing:
            artist.set_gid(page_svg.MOVES)
