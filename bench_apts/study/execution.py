"""How a command runs the trials of a study, and which part of them; not what the trials are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from bench_apts.core import environment, gpu_devices
from bench_apts.core.errors import UserError
from bench_apts.core.job import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Study, Trial
    from bench_apts.study.plan import Plan, StudyCell

    TuningTask = tuple[int, StudyCell]
    """A tuning trial: its number in the search of a cell."""


@dataclass(frozen=True)
class StudyShard:
    """One of several parts of a study, each run on a machine and in a results folder of its own.

    Which trials are whose depends on the study alone, so that no part needs to know of the
    others. What comes after tuning needs all parts: ``bench-apts merge`` joins the folders first.

    Attributes:
        index: Which one, from 1.
        count: How many there are.
    """

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def tuning(self, plan: Plan, tasks: Sequence[TuningTask]) -> list[TuningTask]:
        """Return this part of tuning trials; those of every cell are dealt out evenly.

        The first trial of a cell that may share a search goes with that of the search's owner.
        """
        if self.count == 1:
            return [*tasks]
        return [(number, cell) for number, cell in tasks
                if self._owns(number + plan.cells.index(plan.search_owner(cell) or cell))]

    def reporting(self, plan: Plan, trials: Sequence[Trial]) -> list[Trial]:
        """Return this part of final trainings; those that are compared in pairs stay together.

        These are all of one suite, N and repetition, so that no difference between machines
        comes between optimizers or between twins.
        """
        places = self._places(plan)
        return [trial for trial in trials if self._owns(
            trial.repetition + places.index((trial.suite.name, trial.ranks)))]

    def finals(self, plan: Plan) -> int:
        """Count this part of final trainings, as many as there can be before tuning is over."""
        places = self._places(plan)
        return sum(plan.reports(cell) // plan.study.seeds for cell in plan.cells
                   for repetition in range(plan.study.seeds)
                   if self._owns(repetition + places.index((cell.suite.name, cell.ranks))))

    def next_step(self, folder: Path, missing: int, what: str) -> str:
        """Say in a line what to do when this part is done and the whole is not.

        Args:
            folder: This part's results folder.
            missing: How many trials of the other parts are missing.
            what: ``"tuning trial"`` or ``"final training"``.
        """
        trials = f"1 {what} of the other shards is" if missing == 1 else (
            f"{missing} {what}s of the other shards are")
        then = "then run the same command with --out and --study naming OUT"
        then += (", without --shard" if what == "final training" else
                 ": without --shard, or with it on a copy for each machine, which splits the "
                 "final trainings as well")
        return (f"shard {self} is done, its results are in {folder}; {trials} not there: join all "
                f"folders with `bench-apts merge OUT A B …`, {then}")

    def _owns(self, number: int) -> bool:
        return number % self.count == self.index - 1

    @staticmethod
    def _places(plan: Plan) -> list[tuple[str, int]]:
        return [*dict.fromkeys((cell.suite.name, cell.ranks) for cell in plan.cells)]


WHOLE_STUDY = StudyShard()


class Execution(Struct, frozen=True):
    """How a command runs the trials of a study.

    Attributes:
        reports: Whether the frozen configurations are reported after tuning.
        shared: Whether other commands work on the same study; each trial is run by one of them,
            and all return when all trials have their answers.
        shard: The part of the study that is run.
        jobs: Trials at once, as far as cores or GPUs carry them; for more than one, ``shared``
            must be set.
        jobs_timed: Whether final trainings, too, run side by side.
        checkpoint_every: Samples between two checkpoints of a trial; None for those alone that
            SIGTERM asks for.
        grace_s: How long SIGTERM leaves a trial to write one, in seconds.
        helper: Whether this command was started by another one to run trials for it.
        attempts: How many attempts each ended trial had behind it when the first of several
            commands began, by run id; what failed in later ones is not tried again.
    """

    reports: bool = True
    shared: bool = False
    shard: StudyShard = WHOLE_STUDY
    jobs: int = 1
    jobs_timed: bool = False
    checkpoint_every: int | None = None
    grace_s: float = GRACE_S
    helper: bool = False
    attempts: dict[str, int] = {}

    def beginning(self, known: Iterable[TrialRecord]) -> Execution:
        """Return the same with what had ended when the first of several commands began."""
        return structs.replace(self, attempts={
            record.header.run_id: record.attempts for record in known if record.end})


DEFAULT_EXECUTION = Execution()


def processors(device: str) -> list[str]:
    """Return what names each core or GPU that ranks can have for themselves, at least one."""
    if device == "cuda":
        return gpu_devices.selectors()
    return [*map(str, range(environment.cores()))]


def trials_beside(jobs: int, device: str, ranks: int) -> int:
    """Return how many of ``jobs`` parallel trials may run at once with one on ``ranks`` ranks."""
    return max(0, min(jobs, len(processors(device)) // ranks) - 1)


def fitting_jobs(asked: int, study: Study) -> tuple[int, str]:
    """Return how many trials can run side by side, and a note if they are fewer than asked for.

    That is how many of the smallest world size there are cores or GPUs for.
    """
    noun, ranks = "GPU" if study.device == "cuda" else "core", min(study.ranks)
    have = len(processors(study.device))
    count = max(1, min(asked, have // ranks))
    if count == asked:
        return count, ""
    return count, (f"--jobs {asked}: {have} {noun}{'s' * (have != 1)} carry {count} trial"
                   f"{'s' * (count != 1)} of {ranks} rank{'s' * (ranks != 1)} at a time")


def parse_shard(text: str | None, study: Study) -> StudyShard:
    """Read ``--shard``.

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
