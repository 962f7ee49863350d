"""Markdown: rows of tables, and text that must not be read as markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def escaped(text: str) -> str:
    """Takes from Markdown what it would read as markup."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text)


def line(texts: Sequence[str]) -> str:
    """Returns a row of a table; the texts are Markdown already."""
    return f"| {' | '.join(texts)} |"
