"""What a check of a user's suite or optimizer found, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Level = Literal["ok", "skipped", "warning", "failed"]
FINDING_LEVELS: tuple[Level, ...] = ("ok", "skipped", "warning", "failed")
"""From harmless to severe."""


@dataclass(frozen=True)
class CheckFinding:
    """The result of one check, with what to correct where something is wrong."""

    check: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level:8} {self.check}: {self.text}"


def worst_finding(check: str, found: Iterable[tuple[Level, str]], otherwise: str) -> CheckFinding:
    """Join what a check noticed, each with level and remedy, into one finding of the worst level.

    ``otherwise`` is the text if it noticed nothing.
    """
    noticed = list(found)
    if not noticed:
        return CheckFinding(check, "ok", otherwise)
    level = max((level for level, _ in noticed), key=FINDING_LEVELS.index)
    return CheckFinding(check, level, "; ".join(text for _, text in noticed))
