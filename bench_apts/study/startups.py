"""Trials that fail before their first step, or hang: twice alike, and the others would, too.

Each of them would cost a start, or the time limit, and none would have a result. If all trials of
one optimizer fail alike, it is given up and the others go on. If two optimizers that share no
source fail alike one after the other, the cause is neither, and the study stops.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.study.plan import Plan

_ENOUGH = 2
"""Failures for the same reason."""

_FAILED = ("error", "oom", "timeout")

_CHANCE = re.compile(r"\brank \d+|0x[0-9a-f]+|(?<=[\w\]]:)\d{4,5}\b")
"""What differs between equal failures: the first rank to fail, addresses, ports."""


class Stopped(UserError):
    """The environment lets no trial start; finished ones are kept."""


class Startups:
    """What is known of trials' beginnings in one command."""

    def __init__(self) -> None:
        self._began: set[Hashable] = set()
        self._failed: Counter[tuple[Hashable, str]] = Counter()
        self._suspected: tuple[str, str] | None = None

    def told(self, record: TrialRecord) -> str:
        """Take in how a trial ended in this command, or beside it.

        Returns:
            Why the optimizer's further trials are given up, if it is this trial that decides it;
            else an empty text.

        Raises:
            Stopped: The cause lies in no optimizer.
        """
        trial, reason = record.trial, _failure(record)
        if reason is None:
            self.began(record)
            return ""
        alike = _CHANCE.sub("", reason)
        last, self._suspected = self._suspected, (alike, trial.plugin_sha256)
        if last and last[0] == alike and last[1] != trial.plugin_sha256 and not record.evals:
            raise Stopped("the study stops, as two optimizers failed alike before their first "
                          f"step: {reason}; finished trials are kept, the same command goes on "
                          "from there")
        place = trial.label, trial.suite.name, trial.ranks
        before = self.given_up(*place)
        self._failed.update((key, alike) for key in _keys(*place))
        return reason if self.given_up(*place) and not before else ""

    def began(self, record: TrialRecord) -> None:
        """Take in that a trial came to its first step, now or in an earlier command."""
        if record.evals:
            trial = record.trial
            self._began.update(_keys(trial.label, trial.suite.name, trial.ranks))
            self._suspected = None

    def given_up(self, label: str, suite: str, ranks: int) -> bool:
        """Whether a trial need not be run, as those like it failed alike and none began."""
        return any(number >= _ENOUGH for key in _keys(label, suite, ranks)
                   if key not in self._began
                   for (other, _), number in self._failed.items() if other == key)


def fruitless(plan: Plan, records: Sequence[TrialRecord]) -> list[str]:
    """Name the optimizers of which trials failed and none ran to an end.

    Args:
        plan: The study's trials.
        records: Those of its folder.

    Returns:
        A line for each optimizer, suite and reason, for instance ``"no trial of mine on digits at
        N = 1, 2 ran to an end: rank 0: …"``.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in plan.cells:
        sha256 = plan.plugins[cell.entry.label].sha256
        mine = [r for r in records if r.end and (
            r.trial.label, r.trial.suite, r.trial.ranks, r.trial.plugin_sha256) == (
            cell.entry.label, cell.suite, cell.ranks, sha256)]
        failed = [r.end for r in mine if r.end and r.end.status in _FAILED]
        if failed and not any(ran(record) for record in mine):
            reason = failed[-1].reason or failed[-1].status
            found.setdefault((cell.entry.label, cell.suite.name, reason), []).append(
                str(cell.ranks))
    return [f"no trial of {label} on {suite} at N = {', '.join(ranks)} ran to an end: {reason}"
            for (label, suite, reason), ranks in found.items()]


def ran(record: TrialRecord) -> bool:
    """Whether a trial came to an end by itself, be it that it diverged or its time was up."""
    end = record.end
    return end is not None and (end.status in ("hit", "miss", "diverged", "pruned")
                                or (end.status == "timeout" and bool(end.ledger)))


def _failure(record: TrialRecord) -> str | None:
    """Return why a trial failed before its first step, or was killed at its time limit."""
    end = record.end
    if end is None or end.status not in _FAILED:
        return None
    if record.evals and (end.status != "timeout" or end.ledger):  # what was killed has no ledger
        return None
    return end.reason or end.status


def _keys(label: str, suite: str, ranks: int) -> Iterator[Hashable]:
    """Yield an optimizer, and the optimizer on its suite at its N: one may work, another not."""
    yield label
    yield label, suite, ranks
