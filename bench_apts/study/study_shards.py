"""A study in several parts, each run on a machine and in a results folder of its own.

Which trials are whose depends on the study alone, so that no part need know of the others. What
comes after tuning needs all of it: ``bench-apts merge`` joins the folders first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Study, Trial
    from bench_apts.study.plan import Plan, StudyCell

Task = tuple[int, "StudyCell"]
"""A tuning trial: its number in the search of a competitor."""


@dataclass(frozen=True)
class StudyShard:
    """One of several parts.

    Attributes:
        index: Which one, from 1.
        count: How many there are.
    """

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def tuning(self, plan: Plan, tasks: Sequence[Task]) -> list[Task]:
        """Picks this part of tuning trials; every competitor's are dealt out evenly.

        The first trial of a competitor that may share a search goes with its leader's.
        """
        if self.count == 1:
            return [*tasks]
        return [(number, cell) for number, cell in tasks
                if self._owns(number + plan.cells.index(plan.leader(cell) or cell))]

    def reporting(self, plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
        """Picks this part of final trainings; those that are compared in pairs stay together.

        These are all of one suite, N and repetition, so that no difference between machines
        comes between optimizers or between twins.
        """
        places = self._places(plan)
        return [trial for trial in trials if self._owns(
            trial.repetition + places.index((trial.suite.name, trial.ranks)))]

    def finals(self, plan: Plan) -> int:
        """Counts this part of final trainings, as many as there can be before tuning is over."""
        places = self._places(plan)
        return sum(plan.reports(cell) // plan.study.seeds for cell in plan.cells
                   for repetition in range(plan.study.seeds)
                   if self._owns(repetition + places.index((cell.suite.name, cell.ranks))))

    def _owns(self, number: int) -> bool:
        return number % self.count == self.index - 1

    @staticmethod
    def _places(plan: Plan) -> list[tuple[str, int]]:
        return [*dict.fromkeys((cell.suite.name, cell.ranks) for cell in plan.cells)]


WHOLE_STUDY = StudyShard()


def parse_shard(text: str | None, study: Study) -> StudyShard:
    """Reads ``--shard``.

    Raises:
        UserError: It is not I/K with 1 ≤ I ≤ K, or the study's search learns from all trials.
    """
    if text is None:
        return WHOLE_STUDY
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    shard = StudyShard(*map(int, found.groups())) if found else None
    if shard is None or not 1 <= shard.index <= shard.count:
        raise UserError(f"--shard {text}: write which part of how many, for instance 2/8")
    learns = [f"--sampler {study.sampler}"] if study.sampler == "tpe" else []
    learns += [f"--pruner {study.pruner}"] if study.pruner != "none" else []
    if shard.count > 1 and study.trials and learns:
        raise UserError(f"--shard does not go with {' and '.join(learns)}, which learns from the "
                        "trials of all parts; let the machines share one results folder on a "
                        "common file system, with --shared in place of --shard")
    return shard


def count_missing(plan: Plan, needed: Sequence[Task], known: Sequence[TrialRecord]) -> int:
    """Counts tuning trials without an answer; one that failed has been tried, and counts."""
    there = {(record.trial.repetition, place) for record in known if was_tried(record)
             for place, cell in enumerate(plan.cells) if plan.belongs(record, cell)}
    return sum((number, plan.cells.index(cell)) not in there for number, cell in needed)


def was_tried(record: TrialRecord) -> bool:
    """Whether a trial has ended by itself, be it with an error."""
    return record.finished or (record.end is not None and record.end.status == "error")


def describe_next_step(shard: StudyShard, folder: Path, tuning: int, final: int) -> str:
    """Says what to do when a part is done and the whole is not.

    Args:
        shard: The part.
        folder: Its results folder.
        tuning: Tuning trials that are missing.
        final: Final trainings that are missing.
    """
    number, what = (tuning, "tuning trial") if tuning else (final, "final training")
    missing = f"1 {what} of the other shards is" if number == 1 else (
        f"{number} {what}s of the other shards are")
    after = ("then run the same command with --out and --study naming OUT: without --shard, or "
             "with it on a copy for each machine, which splits the final trainings as well"
             if tuning else "then run the same command with --out and --study naming OUT, "
             "without --shard")
    return (f"shard {shard} is done, its results are in {folder}; {missing} "
            f"not there: join all folders with `bench-apts merge OUT A B …`, {after}")
