"""Section "pareto": who is beaten by nobody in time and bytes, and in time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from bench_apts.core import units

from ..pareto.figures import figure
from ..pareto.fronts import Against, across, points
from ..parts import Part, Pictures

if TYPE_CHECKING:
    from ..context import Context
    from ..drawing.canvas import Figure

_KEY = ("Large: on the Pareto front, as nobody is better in both. Bars: range over seeds. Dashed: "
        "the edge of what the front beats.")


def part(context: Context) -> Part | None:
    """Returns the section; None where no optimizer's median seed reached the target."""
    blocks, sentences = [], []
    for group in context.groups:
        drawn: list[Figure] = []
        fronts: dict[str, list[str]] = {}
        for against in get_args(Against):
            found = points(group, against)
            picture = figure(context, group, against, found)
            if picture is not None:
                drawn.append(picture)
                front = units.listing([p.cell.label for p in found if p.front])
                fronts.setdefault(front, []).append(
                    f"in {'samples' if across(group) == 'samples' else 'time'} and {against}")
        if drawn:
            sentences.append(f"at {context.size(group.ranks)} " + ", ".join(
                f"{names} {' and '.join(pairs)}" for names, pairs in fronts.items()))
            blocks.append(Pictures(tuple(drawn), context.size(group.ranks),
                                   context.noise(group.ranks), _KEY, wide=True))
    if not blocks:
        return None
    return Part("pareto", "Trade-offs",
                f"Pareto-optimal: {'; '.join(sentences)}.", tuple(blocks), legend=True)
