"""Which hyperparameter of each optimizer was varied, by a search or by hand, and what came out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.currency import headline
from bench_apts.stats.costs import outcome
from bench_apts.stats.sensitivity import widest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cells import Cell, Group


class Point(NamedTuple):
    """One trial.

    Attributes:
        ranks: World size N.
        value: Of the hyperparameter, positive.
        cost: To the target in the headline's currency, infinite for a miss.
        core_seconds: To the target likewise.
        status: How the trial ended; "unfinished" without an end.
        chosen: Whether its configuration was frozen at this N.
    """

    ranks: int
    value: float
    cost: float
    core_seconds: float
    status: str
    chosen: bool

    @property
    def hit(self) -> bool:
        """Whether it reached the target."""
        return math.isfinite(self.cost)


class Sweep(NamedTuple):
    """One optimizer and the one hyperparameter that is shown of it.

    Attributes:
        label: The optimizer, under whose look it is drawn.
        name: The hyperparameter.
        low: Lower end of what was searched, or the smallest value given.
        high: Upper end.
        searched: Whether trials were drawn from the range; else a user gave single values.
        points: All trials, N ascending.
    """

    label: str
    name: str
    low: float
    high: float
    searched: bool
    points: tuple[Point, ...]

    def drawn(self, ranks: int | None = None) -> list[tuple[float, bool]]:
        """Value and whether it hit, of the trials at one N or at all."""
        return [(p.value, p.hit) for p in self.points if ranks in (None, p.ranks)]


def sweeps(groups: Sequence[Group]) -> list[Sweep]:
    """Finds them on one suite: searches first, then what was varied by hand.

    Of a search this is the hyperparameter with the largest ratio between the ends of its range.
    An optimizer that shared another's search is left out: the trials are that one's.
    """
    labels = list(dict.fromkeys(cell.label for group in groups for cell in group.cells))
    found = [_searched([c for group in groups for c in group.cells if c.label == label])
             for label in labels]
    optimizers = dict.fromkeys(cell.optimizer for group in groups for cell in group.cells)
    found += [_by_hand([c for group in groups for c in group.cells if c.optimizer == name])
              for name in optimizers]
    return [sweep for sweep in found if sweep]


def _searched(cells: Sequence[Cell]) -> Sweep | None:
    cells = [cell for cell in cells if cell.tune and not cell.leader]
    ranges = next((r.trial.searched.ranges for cell in cells for r in cell.tune
                   if r.trial.searched), {})
    name = widest(ranges)
    if name is None:
        return None
    points = [point for cell in cells for point in _points(cell, name)]
    return Sweep(cells[0].label, name, *ranges[name], True, tuple(points)) if points else None


def _by_hand(cells: Sequence[Cell]) -> Sweep | None:
    """Finds the only number in which untuned entries of one optimizer differ, if it is one."""
    cells = [cell for cell in cells if cell.seeds and not cell.tune]
    given = [cell.seeds[0].trial.hyperparameters for cell in cells]
    differing = {name for values in given for name in values
                 if any(other.get(name) != values[name] for other in given)}
    if len(differing) != 1:
        return None
    name = differing.pop()
    points = [point for cell in sorted(cells, key=lambda cell: cell.ranks)
              for point in _points(cell, name)]
    values = [point.value for point in points]
    if len(set(values)) < 2:
        return None
    return Sweep(cells[0].label, name, min(values), max(values), False, tuple(points))


def _points(cell: Cell, name: str) -> list[Point]:
    points = []
    for record in cell.draws:
        result = outcome(record)
        value = record.trial.hyperparameters.get(name)
        # A value of 0 mostly means that the optimizer finds its own, and no log axis has it.
        if isinstance(value, bool | str) or value is None or value <= 0:
            continue
        points.append(Point(
            cell.ranks, float(value), result.cost[headline(record.trial.device)],
            result.cost["core_seconds"],
            record.end.status if record.end else "unfinished",
            cell.frozen is not None
            and record.trial.hyperparameters == cell.frozen.trial.hyperparameters))
    return points
