"""What the decision says: the answers to the questions of a reader who has to choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench_apts.reports.table import DecisionVerdict, Plain


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
        brief: The detail in a few words, for a table's cell.
        section: Anchor of the section that shows more of it, "" for none.
    """

    question: str
    verdict: DecisionVerdict
    choice: str
    detail: str
    label: str = ""
    numbers: Mapping[str, Plain] = field(default_factory=dict)
    brief: str = ""
    section: str = ""


@dataclass(frozen=True)
class Box:
    """The answers for one suite at one N.

    Attributes:
        heading: Which, for instance ``"N = 2"``.
        verdict: That of the first answer.
        headline: The main answer in one sentence.
        answers: To all questions.
        remarks: What else a reader should know, a sentence each.
        warning: A short note next to the heading, "" for none.
    """

    heading: str
    verdict: DecisionVerdict
    headline: str
    answers: tuple[Answer, ...]
    remarks: tuple[str, ...] = ()
    warning: str = ""


@dataclass(frozen=True)
class Boxes:
    """Decision boxes side by side, at least one; ``tables/decision.csv`` has their numbers."""

    boxes: tuple[Box, ...]

    @property
    def rows(self) -> list[tuple[Answer, list[Answer | None]]]:
        """The first box's answer to each question that any box answers, and that of each box."""
        found = [{answer.question: answer for answer in box.answers} for box in self.boxes]
        most = max(found, key=len)
        order = [*most, *(one for answers in found for one in answers if one not in most)]
        return [(next(answers[one] for answers in found if one in answers),
                 [answers.get(one) for answers in found]) for one in dict.fromkeys(order)]
