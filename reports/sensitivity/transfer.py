"""Transfer matrix: what a configuration chosen at one N costs at another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currency import headline
from bench_apts.stats.transfer import regret

from ..table import Table, Value, mono, name, words
from ..tuning.pool import Pool, View, pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.spec import Scalar

    from ..context import Context


def matrix(context: Context) -> Table | None:
    """Fills the transfer matrix of one suite; None for a single N or where nobody was tuned.

    Optimizers that took over another's search are left out: the matrix is that one's.
    """
    device = context.gathered.device
    view = View(headline(device), 1.0, device)
    sizes = [group.ranks for group in context.groups]
    pools = [found for group in context.groups for cell in group.cells
             if cell.tune and not cell.leader and cell.frozen is not None
             and (found := pool(cell, view))]
    labels = [label for label in context.looks
              if sum(found.cell.label == label for found in pools) > 1]
    if not labels:
        return None
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for label in labels:
        breaks.add(len(rows))
        mine = {found.cell.ranks: found for found in pools if found.cell.label == label}
        rows += [_row(chosen, mine, sizes) for chosen in _alike([*mine.values()])]
    return Table(
        "transfer", "Transfer matrix",
        "Regret at each N: expected cost there with the configuration that was chosen at the "
        "row's N, over that with the one chosen there. 1: nothing lost by not tuning again. A "
        "configuration that was not chosen at N has been run once or a few times there, so that "
        "its cost is uncertain.",
        (("Optimizer", ""), ("Chosen at", "N"), ("Configuration", ""),
         *((f"N = {n}", "regret") for n in sizes)),
        tuple(rows), frozenset(breaks))


def _alike(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Puts those together that froze the same configuration."""
    found: list[list[Pool]] = []
    for one in pools:
        values = _values(one)
        same = next((group for group in found if _values(group[0]) == values), None)
        if same is None:
            found.append([one])
        else:
            same.append(one)
    return found


def _values(one: Pool) -> dict[str, Scalar]:
    assert one.cell.frozen is not None
    return one.cell.frozen.trial.hyperparameters


def _row(chosen: Sequence[Pool], mine: dict[int, Pool], sizes: Sequence[int]) -> tuple[Value, ...]:
    source = chosen[0]
    frozen = source.cell.frozen
    assert frozen is not None
    searched = frozen.trial.searched
    varied = {knob: frozen.trial.hyperparameters[knob] for knob in (
        searched.ranges if searched else {})} or frozen.trial.hyperparameters
    shown = ", ".join(
        f"{knob}={units.trim(units.digits(value)) if isinstance(value, float) else value}"
        for knob, value in varied.items())
    places = [str(one.cell.ranks) for one in chosen]
    return (name(source.cell.label, suite=source.cell.suite.name),
            words(units.listing(places), chosen_at=" ".join(places)),
            mono(shown, configuration=frozen.trial.configuration),
            *(_entry(source, mine.get(ranks), ranks) for ranks in sizes))


def _entry(source: Pool, there: Pool | None, ranks: int) -> Value:
    column = f"regret_{ranks}"
    frozen = source.cell.frozen
    native = there.trained(there.cell.frozen) if there and there.cell.frozen else None
    moved = there.trained(frozen) if there and frozen else None
    if native is None or moved is None:
        return Value("not run", numbers={column: None}, kind="number missed")
    runs = units.plural(moved.trials, "run")
    if native.hits and moved.hits:
        ratio = regret(moved.cost, native.cost)
        return Value(units.digits(ratio), runs, {column: ratio})
    if native.hits:
        least = regret(moved.bound, native.cost)
        return Value(f"more than {units.digits(least)}" if math.isfinite(least) else "no hit",
                     f"0 of {runs}", {column: None}, "number missed")
    return Value("only this hit" if moved.hits else "neither hit", runs, {column: None},
                 "number missed")
