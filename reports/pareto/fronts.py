"""Pareto fronts of one N: time or samples to the target against another cost of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench_apts.stats.pareto import on_front

from ..cells import memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cells import Cell, Group

Against = Literal["bytes", "memory"]
Across = Literal["train_s", "samples"]


@dataclass(frozen=True)
class Point:
    """One optimizer that reached the target with its median seed.

    Attributes:
        cell: Its trainings.
        across: Training seconds or samples to the target: median, smallest and largest of the
            seeds that hit.
        other: Bytes sent to the target likewise; or peak memory, whose first number is the
            largest of all seeds, as a machine must have it.
        front: No other optimizer is as good in both numbers and better in one.
        beaten_by: Labels of those that are, if any.
        seeds_on_front: Repetitions in which its seed alone would be on the front of all seeds
            of that repetition.
    """

    cell: Cell
    across: tuple[float, float, float]
    other: tuple[float, float, float]
    front: bool
    beaten_by: tuple[str, ...]
    seeds_on_front: int


def across(group: Group) -> Across:
    """Return what stands across: samples where ranks shared cores, else training seconds."""
    return "samples" if group.crowded else "train_s"


def points(group: Group, against: Against) -> list[Point]:
    """Returns the optimizers whose median seed hit and whose costs are known, as points."""
    which = across(group)
    found = [(cell, _range(cell, which), _range(cell, against)) for cell in group.cells
             if cell.seeds and math.isfinite(cell.to_target(which).median)
             and not (against == "memory" and not cell.memory)
             and not (against == "bytes" and math.isnan(cell.to_target("wire_bytes").median))]
    pairs = [(time[0], other[0]) for _, time, other in found]
    front = on_front(pairs)
    single = _seeds_on_front(group, against)
    return [Point(cell, time, other, leads, tuple(
        rival.label for (rival, *_), pair in zip(found, pairs, strict=True)
        if pair != mine and not on_front([mine, pair])[0]), single.get(cell.label, 0))
        for (cell, time, other), mine, leads in zip(found, pairs, front, strict=True)]


def _range(cell: Cell, what: Against | Across) -> tuple[float, float, float]:
    values = [value for value in _values(cell, what) if math.isfinite(value)]
    if what == "memory":
        return max(values), min(values), max(values)
    return (cell.to_target("wire_bytes" if what == "bytes" else what).median,
            min(values), max(values))


def _values(cell: Cell, what: Against | Across) -> Sequence[float]:
    """One number for each seed, infinite where it missed or was not measured."""
    if what == "memory":
        return [float(memory(record) or math.inf) for record in cell.seeds]
    values = [outcome.cost["wire_bytes" if what == "bytes" else what]
              for outcome in cell.finals]
    return [math.inf if math.isnan(value) else value for value in values]


def _seeds_on_front(group: Group, against: Against) -> dict[str, int]:
    """Counts for each optimizer the repetitions in which its seed is on the front."""
    which = across(group)
    runs: dict[int, list[tuple[str, tuple[float, float]]]] = {}
    for cell in group.cells:
        for record, first, other in zip(cell.seeds, _values(cell, which),
                                        _values(cell, against), strict=True):
            runs.setdefault(record.trial.repetition, []).append((cell.label, (first, other)))
    counted: dict[str, int] = {}
    for entries in runs.values():
        for (label, _), leads in zip(entries, on_front([pair for _, pair in entries]),
                                     strict=True):
            counted[label] = counted.get(label, 0) + leads
    return counted
