"""How an optimizer looks in all figures.

An optimizer has one colour, marker and line style throughout a report. The colours differ for the
common kinds of colour blindness too, and have a contrast of at least 3 : 1 on the light and on
the dark page; marker and line style say the same without colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Look(NamedTuple):
    """The slot names the CSS classes ``c0`` …; ``color`` is the one of the light page."""

    slot: str
    color: str
    dark: str
    marker: str
    dashes: Literal["-"] | tuple[int, tuple[float, ...]]


INK, MUTED, GRID = "#1d2530", "#5b6675", "#dfe3e9"

LOOKS = (
    Look("c0", "#0b68b0", "#62b6f5", "o", "-"),
    Look("c1", "#c64f0b", "#f79a5e", "s", (0, (5, 1.6))),
    Look("c2", "#00795a", "#45cfa1", "^", (0, (5, 1.5, 1.2, 1.5))),
    Look("c3", "#9c3f8c", "#e495d4", "D", (0, (1.6, 1.3))),
    Look("c4", "#8a6100", "#e6bd48", "v", (0, (8, 2))),
    Look("c5", "#56606e", "#b4bdca", "P", (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2))),
    Look("c6", "#8f1f3f", "#f58aa0", "X", (0, (2.5, 2.5))),
    Look("c7", "#00737f", "#58d2de", "p", (0, (9, 1.5, 2, 1.5))),
    Look("c8", "#4a3fb5", "#aaa2fb", "<", (0, (6, 1.2, 1.2, 1.2))),
    Look("c9", "#5c6b00", "#bccb45", ">", (0, (3.5, 1.4))),
    Look("c10", "#7a4326", "#d3a587", "h", (0, (1.2, 2.2))),
    Look("c11", "#cf1f6b", "#ff86b8", "*", (0, (9, 1.5, 1.2, 1.5, 1.2, 1.5))),
)

ADAPTED = {INK: "ink", MUTED: "muted", GRID: "grid"} | {look.color: look.slot for look in LOOKS}
"""Colours that a page recolours by CSS in dark mode, and their names there."""


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return each label's look, in order.

    Beyond twelve a colour comes again, with another marker and another line style each time, so
    that no two of the first 144 labels look the same.
    """
    given = {}
    for index, label in enumerate(labels):
        turn, slot = divmod(index, len(LOOKS))
        marked, dashed = LOOKS[(slot + 5 * turn) % len(LOOKS)], LOOKS[(slot + turn) % len(LOOKS)]
        given[label] = LOOKS[slot]._replace(marker=marked.marker, dashes=dashed.dashes)
    return given
