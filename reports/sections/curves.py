"""Section "curves": the validation metric in the course of training, on four axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports import basis

from ..curves.courses import AXES
from ..curves.figures import figures, leaders, ties
from ..parts import Part, Pictures

if TYPE_CHECKING:
    from ..context import Context

_KEY = ("Thin: single seeds. Bold: their median, with its band. Ring: first hit. Cross: end "
        "without one. Dashed: target.")


def part(context: Context) -> Part | None:
    """Returns the section; None while no final training has an evaluation."""
    blocks = tuple(
        Pictures(tuple(drawn), context.size(group.ranks), context.noise(group.ranks), _KEY,
                 wide=True)
        for group in context.groups if (drawn := figures(context, group)))
    if not blocks:
        return None
    return Part("curves", "Curves", _finding(context), blocks,
                legend=True)


def _finding(context: Context) -> str:
    hit, total = basis.hits(context.groups)
    axis = next(axis for axis in AXES if axis.column == (
        "train_s" if context.gathered.device == "cuda" else "samples"))
    firsts = [f"at {context.size(group.ranks)} {units.listing(labels)} ({axis.form(value)})"
              for group in context.groups if (ranked := leaders(group, axis))
              for value, labels in ties(ranked)[:1]]
    reached = f"{hit} of {units.plural(total, 'final training')} reached the target"
    if not firsts:
        return f"{reached}{', no median seed among them' if hit else ''}."
    counted = "training time" if axis.column == "train_s" else axis.column
    return f"{reached}; first in {counted}, by the median seed: {units.listing(firsts)}."
