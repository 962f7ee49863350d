"""Trials side by side: how many there can be, and the cores that they run on.

How a command runs the trials of a study; nothing of it is part of what they are.

Helper commands, which share a study's folder with the command that starts them.

A helper takes tuning trials as any command does that is given ``--shared``. No more ranks run at
once than the machine has cores; on GPUs each helper has its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct, structs

from bench_apts.core import environment
from bench_apts.core.job import GRACE_S
from bench_apts.core.spec import Study
from bench_apts.study.study_shards import WHOLE_STUDY, StudyShard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from bench_apts.core.records import TrialRecord

class Parallelism(msgspec.Struct, frozen=True):
    """How many trials run side by side, and which of the commands this one is.

    Attributes:
        count: Trials at once, as far as cores carry them.
        timed: Whether final trainings, too, run side by side.
        ended: How many attempts each ended trial had behind it when the first of the commands
            began, by run id; what has failed in later ones is not tried again.
        helper: Whether this is one of the commands that the first one started.
    """

    count: int = 1
    timed: bool = False
    ended: dict[str, int] = {}
    helper: bool = False

    def beside(self, device: str, ranks: int) -> int:
        """Returns how many trials may run beside one on ``ranks`` ranks."""
        if device == "cuda":
            return self.count - 1
        return max(0, min(self.count, environment.cores() // ranks) - 1)


SERIAL = Parallelism()


def fitting_parallelism(asked: int, study: Study) -> tuple[int, str]:
    """Returns how many trials can run side by side, and a note if they are fewer than asked for.

    On CPUs that is how many of the smallest world size there are cores for; on GPUs how many of
    the largest there are GPUs for, as each command has its own.
    """
    if study.device == "cuda":
        have, noun, ranks = environment.gpu_count(), "GPU", max(study.ranks)
    else:
        have, noun, ranks = environment.cores(), "core", min(study.ranks)
    count = max(1, min(asked, have // ranks))
    if count == asked:
        return count, ""
    return count, (f"--jobs {asked}: {have} {noun}{'s' * (have != 1)} carry {count} trial"
                   f"{'s' * (count != 1)} of {ranks} rank{'s' * (ranks != 1)} at a time")


class CoreSlots:
    """The cores of this machine, taken by the trials of all commands in a results folder.

    Args:
        folder: The results folder, which other machines may share.
        cores: How many there are.
    """

    def __init__(self, folder: Path, cores: int) -> None:
        place = folder / ".slots" / socket.gethostname()
        place.mkdir(parents=True, exist_ok=True)
        self._counting = FileLock(place / "counting")
        self._cores = [FileLock(place / str(core)) for core in range(cores)]

    @contextlib.contextmanager
    def taken(self, ranks: int) -> Iterator[bool]:
        """Takes a core for each rank, or all there are, while the block runs.

        Yields:
            Whether they were free; if not, none is taken.
        """
        wanted = min(ranks, len(self._cores))
        with contextlib.ExitStack() as held:
            free = []
            with self._counting:
                for core in self._cores:
                    with contextlib.suppress(Timeout):
                        core.acquire(timeout=0)
                        held.callback(core.release)
                        free.append(core)
                        if len(free) == wanted:
                            break
                if len(free) < wanted:
                    held.close()
            yield len(free) == wanted


class Execution(Struct, frozen=True):
    """How a command runs the trials of a study.

    Attributes:
        shared: Whether other commands work on the same study; each trial is run by one of them,
            and all return when all trials have their answers.
        reports: Whether the frozen configurations are to be reported, after tuning.
        shard: The part of the study that is to be run.
        jobs: How many trials run side by side; for more than one, ``shared`` must be set.
        checkpoint_every: Samples between two checkpoints of a trial; None for those alone that
            SIGTERM asks for.
        grace_s: How long SIGTERM leaves a trial to write one, in seconds.
    """

    shared: bool = False
    reports: bool = True
    shard: StudyShard = WHOLE_STUDY
    jobs: Parallelism = SERIAL
    checkpoint_every: int | None = None
    grace_s: float = GRACE_S

    def beginning(self, known: Iterable[TrialRecord]) -> Execution:
        """Returns the same with what had ended when the first of several commands began."""
        ended = {record.header.run_id: record.attempts for record in known if record.end}
        return structs.replace(self, jobs=structs.replace(self.jobs, ended=ended))


DEFAULT_EXECUTION = Execution()


_AFTER_S = 10.0
"""How long a helper may take to end, beyond what a trial may take to write a checkpoint."""


class StudyJob(msgspec.Struct, frozen=True):
    """What a helper is told.

    Attributes:
        study: The study.
        prepared: Folder, fingerprint and source of each data set.
        folder: The results folder.
        execution: How the command that starts it runs the trials.
    """

    study: Study
    prepared: dict[str, tuple[str, str, str]]
    folder: str
    execution: Execution


class Helper(NamedTuple):
    """A command that runs trials of ours, and the file that takes what it complains of."""

    process: subprocess.Popen[str]
    errors: IO[str]


@contextlib.contextmanager
def running_helpers(work: StudyJob) -> Iterator[Sequence[Helper]]:
    """Runs helpers, one less than trials side by side, while the block does; then ends them.

    A helper has none of its own.
    """
    started: list[Helper] = []
    with contextlib.ExitStack() as files:
        try:
            for number in range(1, 1 if work.execution.jobs.helper else work.execution.jobs.count):
                errors = files.enter_context(tempfile.TemporaryFile(
                    "w+", encoding="utf-8", errors="replace"))
                started.append(_start_helper(work, number, errors))
            yield started
        finally:
            for helper in started:
                helper.process.terminate()
            for helper in started:
                try:
                    helper.process.wait(work.execution.grace_s + _AFTER_S)
                except subprocess.TimeoutExpired:
                    helper.process.kill()
                    helper.process.wait()
                assert helper.process.stdin is not None
                helper.process.stdin.close()


def wait_for_helpers(started: Sequence[Helper]) -> list[str]:
    """Waits until helpers have ended, and returns the last words of those that failed."""
    words = []
    for number, helper in enumerate(started, 1):
        if helper.process.wait():
            helper.errors.seek(0)
            said = helper.errors.read().strip().splitlines() or ["it said nothing"]
            words.append(f"helper {number} ended with code {helper.process.returncode}, so this "
                         f"command did its part: {said[-1]}")
    return words


def _start_helper(work: StudyJob, number: int, errors: IO[str]) -> Helper:
    execution = msgspec.structs.replace(
        work.execution, reports=work.execution.jobs.timed,
        jobs=msgspec.structs.replace(work.execution.jobs, helper=True))
    work = msgspec.structs.replace(work, execution=execution)
    environ = dict(os.environ)
    if work.study.device == "cuda":
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [*map(str, range(environment.gpu_count()))]
        most = max(work.study.ranks)
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[number * most:(number + 1) * most])
    # -P: a file in the working folder must not stand in for a module of that name.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench_apts.study.helper_command"], env=environ,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its exit code will tell
        # The pipe stays open: at its end, when this command is gone, the helper ends too.
        process.stdin.write(msgspec.json.encode(work).decode() + "\n")
        process.stdin.flush()
    return Helper(process, errors)
