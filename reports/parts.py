"""What a page is made of: parts with a title, one sentence written from the data, and blocks.

The modules in ``sections/`` build them, the template shows them; neither knows the other. Figures
of one ``Pictures`` block that have the very same ``data`` object show it once, below them all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .drawing.canvas import Figure
    from .findings import Verdict
    from .table import Plain, Table


@dataclass(frozen=True)
class Pictures:
    """Figures side by side.

    Attributes:
        figures: At least one.
        heading: What they are about, for instance ``"N = 2"``; "" for no heading.
        aside: What is to be known beside the heading, "" for nothing.
        key: What the marks in the figures mean, "" if they need no words.
        wide: Two in a row instead of three.
    """

    figures: tuple[Figure, ...]
    heading: str = ""
    aside: str = ""
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


@dataclass(frozen=True)
class Answer:
    """The answer to one question of a reader who has to choose.

    Attributes:
        question: For instance ``"Training once, tuning included"``.
        verdict: Whether the data can tell who is best.
        choice: The answer in a few words; an optimizer's label, or that there is none.
        detail: The numbers behind it, in one or two sentences.
        label: The optimizer whose legend mark stands in front, if there is one answer.
        numbers: The same as plain numbers in base units, by CSV column.
    """

    question: str
    verdict: Verdict
    choice: str
    detail: str
    label: str = ""
    numbers: Mapping[str, Plain] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """The answers for one suite at one N.

    Attributes:
        heading: Which, for instance ``"N = 2"``.
        verdict: That of the first answer.
        headline: The main answer in one sentence.
        answers: To all questions.
        remarks: What else a reader should know, a sentence each.
        warning: A short note beside the heading, "" for none.
    """

    heading: str
    verdict: Verdict
    headline: str
    answers: tuple[Answer, ...]
    remarks: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Boxes:
    """Decision boxes side by side; ``bench_apts.reports`` writes their numbers to a CSV file.

    Attributes:
        boxes: At least one.
        name: The CSV file's name without suffix.
    """

    boxes: tuple[Box, ...]
    name: str = "decision"


Block = Pictures | Listing | Prose | Boxes


@dataclass(frozen=True)
class Part:
    """One part of a suite's chapter.

    Attributes:
        slug: Its anchor inside the chapter, for instance ``"pareto"``.
        title: Its heading.
        finding: One sentence written from the data, with its numbers.
        blocks: What is shown, in order.
        legend: Whether the optimizers' legend is to stand above the figures.
        drawn: The labels that the legend is limited to, () for all.
    """

    slug: str
    title: str
    finding: str
    blocks: tuple[Block, ...] = field(default=())
    legend: bool = False
    drawn: tuple[str, ...] = ()
