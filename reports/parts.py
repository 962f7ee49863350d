"""What a page is made of: parts with a title, one sentence written from the data, and blocks.

The modules in ``sections/`` build them, the template shows them; neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .canvas import Figure
    from .table import Table


@dataclass(frozen=True)
class Pictures:
    """Figures side by side.

    Attributes:
        figures: At least one.
        heading: What they are about, for instance ``"N = 2"``; "" for no heading.
        key: What the marks in the figures mean, "" if they need no words.
        wide: Two in a row instead of three.
    """

    figures: tuple[Figure, ...]
    heading: str = ""
    key: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Listing:
    """A table; a folded one opens on demand."""

    table: Table
    folded: bool = True


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


Block = Pictures | Listing | Prose


@dataclass(frozen=True)
class Part:
    """One part of a suite's chapter.

    Attributes:
        slug: Its anchor inside the chapter, for instance ``"pareto"``.
        title: Its heading.
        finding: One sentence written from the data, with its numbers.
        blocks: What is shown, in order.
        legend: Whether the optimizers' legend is to stand above the figures.
    """

    slug: str
    title: str
    finding: str
    blocks: tuple[Block, ...] = field(default=())
    legend: bool = False
