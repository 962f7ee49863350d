"""What a check found: one line, with what to mend where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Level = Literal["ok", "skipped", "warning", "failed"]
LEVELS: tuple[Level, ...] = ("ok", "skipped", "warning", "failed")
"""From harmless to severe."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level:8} {self.check}: {self.text}"


def worst(check: str, found: Iterable[tuple[Level, str]], otherwise: str) -> Finding:
    """Join what a check noticed into one finding, of the most severe level.

    Args:
        check: The check's name.
        found: What is wrong, each with its level and remedy.
        otherwise: What to say if nothing is.
    """
    noticed = list(found)
    if not noticed:
        return Finding(check, "ok", otherwise)
    level = max((level for level, _ in noticed), key=LEVELS.index)
    return Finding(check, level, "; ".join(text for _, text in noticed))
