"""Section "scaling": the target at several N, why it takes what it takes, and other networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts import fabrics
from bench_apts.stats.projection import Algorithm, Scaling

from .. import units
from ..parts import Listing, Part, Pictures, Prose
from ..scaling import modelled, projected
from ..scaling.figures import costs, factor
from ..scaling.networks import figures
from ..scaling.numbers import scaled, summary, table

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    found, _ = projected.rows(context.gathered, modelled.RANKS, networks, list(Scaling),
                              Algorithm.best)
    rows = [row for row in found if row.cell.suite == context.suite]
    listing = modelled.table(rows)
    if listing is None:
        return []
    drawn = tuple(figures(context, rows))
    pictures = [Pictures(drawn, "Modelled: other networks, other N",
                         key="Filled: measured here. Open and dotted: modelled.")] if drawn else []
    return [Prose("Nobody measured these times. They follow from what was recorded: what "
                  "a rank computes and what it sends."), *pictures, Listing(listing)]


def _finding(context: Context, rows: Sequence[Scaled]) -> str:
    mode = f"{context.suite.scaling.capitalize()} scaling"
    crowded = [row.cell.ranks for row in rows if context.crowded[row.cell.ranks]]
    compared = [row for row in rows if row.efficiency and row.base
                and row.base.ranks != row.cell.ranks]
    clear = [row for row in compared if not row.crowded]
    if len({row.cell.ranks for row in rows}) < 2:
        return f"{mode}: a single N was run, so that times at others are modelled, not measured."
    text = f"{mode}: no optimizer's median seed reached the target at two N that can be compared"
    if clear:
        last = max(row.cell.ranks for row in clear)
        best = max((row for row in clear if row.cell.ranks == last),
                   key=lambda row: row.efficiency.total if row.efficiency else 0.0)
        assert best.efficiency
        assert best.base
        text = (f"{mode}: at N = {last} the highest efficiency against N = {best.base.ranks} is "
                f"that of {best.cell.label}, {units.digits(best.efficiency.total)} = "
                f"{units.digits(best.efficiency.hardware)} hardware × "
                f"{units.digits(best.efficiency.statistical)} statistical")
    elif compared:
        last = max(row.cell.ranks for row in compared)
        best = max((row for row in compared if row.cell.ranks == last),
                   key=lambda row: row.efficiency.statistical if row.efficiency else 0.0)
        assert best.efficiency
        assert best.base
        text = (f"{mode}: at N = {last} {best.cell.label} has the largest statistical "
                f"factor against N = {best.base.ranks}, "
                f"{units.digits(best.efficiency.statistical)}")
    if crowded:
        sizes = units.listing([str(n) for n in sorted(set(crowded))])
        text += f"; times at N = {sizes} measure this machine, which has fewer cores"
    return text + "."
