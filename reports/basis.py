"""What a figure about final trainings rests on: how many seeds, which target, which cap."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cells import Group
    from .context import Context


def seeds(context: Context, groups: Iterable[Group]) -> str:
    """Says how many final trainings of each optimizer there are, and the suite's conditions."""
    counts = sorted({len(cell.seeds) for group in groups for cell in group.cells if cell.seeds})
    if not counts:
        return f"No final training. {context.conditions}"
    most = counts[-1]
    number = str(most) if len(counts) == 1 else f"{counts[0]} to {most}"
    return (f"n = {number} seed{'' if most == 1 else 's'} of each optimizer's frozen "
            f"configuration. {context.conditions}")


def hits(groups: Iterable[Group]) -> tuple[int, int]:
    """Counts the final trainings that reached the target, and all of them."""
    finals = [outcome for group in groups for cell in group.cells for outcome in cell.finals]
    return sum(outcome.hit for outcome in finals), len(finals)
