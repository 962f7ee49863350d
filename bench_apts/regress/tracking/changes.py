"""What changed between two commits, of the numbers that asv stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import git

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench_apts.reports.history.commits import History, Line

_THRESHOLD = 0.05
"""asv's own, where ``regressions_thresholds`` names none."""


class Change(NamedTuple):
    """A benchmark's number at two commits; None where it failed."""

    name: str
    unit: str
    before: float | None
    after: float | None

    @property
    def worse(self) -> bool:
        """Whether the number rose, or is gone."""
        if self.after is None or self.before is None:
            return self.after is None
        return self.after > self.before

    def __str__(self) -> str:
        before, after = ("failed" if value is None else f"{value:.6g}"
                         for value in (self.before, self.after))
        ratio = f" (x {self.after / self.before:.4g})" if self.before and self.after else ""
        return f"{'worse ' if self.worse else 'better'} {self.name}: {before} -> {after}" + (
            f" {self.unit}{ratio}" if self.unit else ratio)


class Changes(NamedTuple):
    """What changed from one commit to another beyond the thresholds.

    Attributes:
        numbers: How many numbers both commits have.
        beyond: Those that changed, the worse ones first.
    """

    numbers: int
    beyond: list[Change]


def last_before(root: Path, history: History, machine: str, commit: str) -> str | None:
    """Returns the closest ancestor of a commit that has results on a machine."""
    measured = {point.commit for line in history.lines if line.machine == machine
                for point in line.points}
    ancestors = git.text(root, "rev-list", "--topo-order", commit).splitlines()[1:]
    return next((ancestor for ancestor in ancestors if ancestor in measured), None)


def changes(history: History, machine: str, before: str, after: str,
            thresholds: Mapping[str, float]) -> Changes:
    """Compares two commits number by number."""
    numbers, beyond = 0, []
    for line in history.lines:
        at = {point.commit: point.value for point in line.points}
        if line.machine != machine or not {before, after} <= set(at):
            continue
        numbers += 1
        change = Change(_name(line), line.unit, at[before], at[after])
        if _differs(change, _threshold(change.name, thresholds)):
            beyond.append(change)
    return Changes(numbers, sorted(beyond, key=lambda change: not change.worse))


def _name(line: Line) -> str:
    return f"{line.benchmark}({line.parameters})" if line.parameters else line.benchmark


def _differs(change: Change, threshold: float) -> bool:
    if change.before is None or change.after is None:
        return change.before is not change.after
    return abs(change.after - change.before) > threshold * abs(change.before)


def _threshold(name: str, thresholds: Mapping[str, float]) -> float:
    """Returns the largest of those that match, as asv does."""
    found = [float(value) for pattern, value in thresholds.items() if re.match(pattern, name)]
    return max(found, default=_THRESHOLD)
