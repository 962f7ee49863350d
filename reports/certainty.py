"""What the decision boxes of a chapter cannot tell, said in each part that compares optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.core import units

from .parts import Boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .findings import Verdict
    from .parts import Part

_COMPARING = frozenset({"main", "tuning", "curves", "scaling", "pareto"})
"""Parts that name who is first in something."""

_SAID: dict[Verdict, str] = {
    "not told apart": "the trials do not tell the optimizers apart",
    "cannot be told": "so few trials cannot tell the optimizers apart",
    "not judged": "the trials are of environments that do not compare"}


def qualified(decision: Part, parts: Sequence[Part]) -> tuple[Part, ...]:
    """Add to the findings of comparing parts what the decision boxes could not tell.

    Args:
        decision: The chapter's decision boxes.
        parts: Its other parts.
    """
    text = certainty(decision)
    if not text:
        return tuple(parts)
    return tuple(replace(part, finding=f"{part.finding} {text}".lstrip())
                 if part.slug in _COMPARING else part for part in parts)


def certainty(decision: Part) -> str:
    """Say in one sentence where the boxes name no winner; "" if they do everywhere."""
    boxes = [box for block in decision.blocks if isinstance(block, Boxes)
             for box in block.boxes if box.answers and box.answers[0].numbers["runner_up"]]
    places: dict[str, list[str]] = {}
    for box in boxes:
        if box.verdict in _SAID:
            places.setdefault(_SAID[box.verdict], []).append(box.heading)
    if not places:
        return ""
    said = "; ".join(f"{units.listing(where)}: {what}" for what, where in places.items())
    return f"{said[0].upper()}{said[1:]}, so that an order is that of this sample alone."
