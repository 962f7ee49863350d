"""Sensitivity: cost against the hyperparameter that was varied, success by N, and transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats.sensitivity import working_range

from ..caveats import on_the_edge
from ..parts import Block, Listing, Part, Pictures, Prose
from ..sensitivity import figures
from ..sensitivity.sweeps import sweeps
from ..sensitivity.transfer import matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context
    from ..drawing.canvas import Figure
    from ..sensitivity.sweeps import Sweep


def part(context: Context) -> Part | None:
    """Builds the section; None where no hyperparameter was varied."""
    found = sweeps(context.groups)
    if not found:
        return None
    blocks: list[Block] = [Prose(line) for line in _edges(context)]
    for knob in dict.fromkeys(sweep.name for sweep in found):
        mine = [sweep for sweep in found if sweep.name == knob]
        drawn = [figure for group in context.groups
                 if (figure := figures.cost(context, group.ranks, mine))]
        if drawn:
            blocks.append(Pictures(tuple(drawn), f"Cost against {knob}"))
    heats: list[Figure] = [figures.heat(context, sweep) for sweep in found]
    blocks.append(Pictures(tuple(heats), "Share of trials that hit",
                           key="The stronger the colour, the more of the trials in this part of "
                               "the range hit."))
    table = matrix(context)
    if table is not None:
        blocks.append(Listing(table, folded=False))
    return Part("sensitivity", "Sensitivity", _finding(found), tuple(blocks), legend=True,
                drawn=tuple(dict.fromkeys(sweep.label for sweep in found)))


def _finding(found: Sequence[Sweep]) -> str:
    """Compares the optimizers by the share of trials that hit, and says how wide that is."""
    ranked = sorted(found, key=_share, reverse=True)
    best, worst = ranked[0], ranked[-1]
    if not _share(best):
        return "No trial reached the target, whatever its hyperparameters."
    if _share(best) == _share(worst):
        return f"Over all N, {units.listing([_rate(sweep) for sweep in found])}."
    return f"Over all N, {_rate(best)}, the largest share; {_rate(worst)}, the smallest."


def _share(sweep: Sweep) -> float:
    """Share of the trials that hit, over all N."""
    return sum(hit for _, hit in sweep.drawn()) / len(sweep.points)


def _rate(sweep: Sweep) -> str:
    hits = sum(hit for _, hit in sweep.drawn())
    text = f"{hits} of {units.plural(len(sweep.points), 'trial')} of {sweep.label} hit"
    found = working_range(sweep.drawn())
    if found is None or found[0] == found[1]:
        return text
    low, high = (units.trim(units.digits(end)) for end in found)
    return f"{text}, with {sweep.name} between {low} and {high}"


def _edges(context: Context) -> list[str]:
    """Warns of each optimum at an end of what was searched, with its place."""
    lines = []
    for group in context.groups:
        for cell in group.cells:
            if cell.leader or cell.frozen is None or cell.frozen.trial.searched is None:
                continue
            for knob in on_the_edge(cell):
                low, high = cell.frozen.trial.searched.ranges[knob]
                value = cell.frozen.trial.hyperparameters[knob]
                assert isinstance(value, int | float)
                lines.append(
                    f"Optimum at the edge: at N = {group.ranks} the best {knob} of {cell.label} "
                    f"is {units.trim(units.digits(value))}, at an end of what was searched, "
                    f"{units.trim(units.digits(low))} to {units.trim(units.digits(high))}. A "
                    "wider range may hold better (--space wide).")
    return lines
