"""Section "scaling": the target at several N, why it takes what it takes, and other networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats import fabrics
from bench_apts.stats.projection import Algorithm, Scaling

from ..parts import Listing, Part, Pictures, Prose
from ..scaling import modelled, projected
from ..scaling.figures import comparable, costs, factor
from ..scaling.networks import figures
from ..scaling.numbers import scaled, summary, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.efficiency import Efficiency

    from ..cells import Cell
    from ..context import Context
    from ..parts import Block
    from ..scaling.numbers import Scaled


def part(context: Context) -> Part | None:
    """Returns the section; None with a single N and nothing that could be modelled."""
    rows = scaled(context)
    blocks: list[Block] = []
    if len({row.cell.ranks for row in rows}) > 1:
        drawn = (costs(context, "train_s", "time", "training time"),
                 costs(context, "wire_bytes", "bytes", "ideal wire bytes per rank"),
                 factor(context, rows, "hardware"), factor(context, rows, "statistical"))
        shown = tuple(figure for figure in drawn if figure)
        if shown:
            blocks.append(Pictures(shown, f"Measured, {context.suite.scaling} scaling", wide=True))
        factors = summary(context, rows)
        if factors is not None:
            blocks.append(Listing(factors, folded=False))
        blocks.append(Listing(table(context, rows)))
    blocks += _networks(context)
    if not blocks:
        return None
    return Part("scaling", "Scaling", _finding(context, rows), tuple(blocks),
                legend=True)


def _networks(context: Context) -> list[Block]:
    known = fabrics.load()
    networks = fabrics.networks([*known], known, 1, next(iter(known)))
    mine = replace(context.gathered, groups=context.groups)
    rows, notes = projected.rows(mine, modelled.RANKS, networks, list(Scaling), Algorithm.best)
    listing = modelled.table(rows)
    alone = [Prose(f"{note[0].upper()}{note[1:]}.") for note in notes if "needs N = 1" in note]
    if listing is None:
        return [*alone]
    drawn = tuple(figures(context, rows))
    key = ("Filled: measured here. Open and dotted: modelled. Nobody measured these times; they "
           "follow from what was recorded, what a rank computes and what it sends.")
    pictures = [Pictures(drawn, "Modelled: other networks, other N", key=key)] if drawn else []
    return [*pictures, Listing(listing), *alone]


def _finding(context: Context, rows: Sequence[Scaled]) -> str:
    mode = f"{context.suite.scaling.capitalize()} scaling"
    crowded = [row.cell.ranks for row in rows if context.crowded[row.cell.ranks]]
    compared, base = comparable(rows)
    clear, clear_base = comparable([row for row in rows if not row.crowded])
    if len({row.cell.ranks for row in rows}) < 2:
        return f"{mode}: a single N was run; times at others are not modelled: needs N = 1."
    text = f"{mode}: no optimizer's median seed reached the target at two N that can be compared"
    if clear:
        cell, found = _best(clear, lambda found: found.total)
        text = (f"{mode}: at N = {cell.ranks} the highest efficiency against N = {clear_base} is "
                f"that of {cell.label}, {units.digits(found.total)} = "
                f"{units.digits(found.hardware)} hardware × "
                f"{units.digits(found.statistical)} statistical")
    elif compared:
        cell, found = _best(compared, lambda found: found.statistical)
        text = (f"{mode}: at N = {cell.ranks} {cell.label} has the largest statistical "
                f"factor against N = {base}, {units.digits(found.statistical)}")
    if crowded:
        sizes = units.listing([str(n) for n in sorted(set(crowded))])
        text += f"; times at N = {sizes} measure this machine, which has fewer cores"
    return text + "."


def _best(rows: Sequence[Scaled],
          value: Callable[[Efficiency], float]) -> tuple[Cell, Efficiency]:
    """Finds who has the largest value, and its efficiency."""
    found = [(value(row.efficiency), row.cell, row.efficiency) for row in rows if row.efficiency]
    _, cell, efficiency = max(found, key=lambda entry: entry[0])
    return cell, efficiency
