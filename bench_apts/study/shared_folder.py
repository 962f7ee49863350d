"""A results folder and the commands in it: their locks, the processors they share, their helpers.

A helper is a command that another one starts. It runs trials as any command does that is given
``--shared``; no more ranks run at once than the machine has cores or GPUs, and no two of them on
one GPU.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec
from filelock import FileLock, ReadWriteLock, Timeout
from msgspec import structs

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import require_utf8, write_json
from bench_apts.core.spec import Study
from bench_apts.study.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench_apts.study.plan import Plan

_NEEDED_BYTES = 64 * 2**20
"""Free space below which a study does not start: records are small, figures a few megabytes."""

_END_WAIT_S = 10.0
"""How long a helper may take to end, beyond what a trial may take to write a checkpoint."""


@contextlib.contextmanager
def open_results_folder(folder: Path, shared: bool = False) -> Iterator[None]:
    """Make a results folder and lock it against other commands.

    Args:
        folder: The results folder.
        shared: Let others in that share it too.

    Raises:
        UserError: It cannot be written, has too little space, or another command holds it.
    """
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        lock = ReadWriteLock(folder / ".lock.db", timeout=0, blocking=False)
        (lock.acquire_read if shared else lock.acquire_write)()
    except Timeout as error:
        raise UserError(f"another bench-apts is working in {folder}; wait for it, share the work "
                        "by giving both commands --shared, or name another folder with --out or "
                        "--study") from error
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot write to {folder}: {why}; choose another folder with --out"
                        ) from error
    try:
        free = shutil.disk_usage(folder).free
        if free < _NEEDED_BYTES:
            raise UserError(f"{folder} has {free / 2**20:.0f} MiB free, at least "
                            f"{_NEEDED_BYTES / 2**20:.0f} MiB are needed; choose another folder "
                            "with --out")
        yield
    finally:
        lock.release()


def write_study(plan: Plan, folder: Path, card: dict[str, object]) -> None:
    """Write ``study.json``: what the command in this process runs, with its environment card."""
    prepared = plan.prepared.items()
    write_json(folder / "study.json", store.StudyFile(
        plan.study, ["bench-apts", *sys.argv[1:]], store.now(), card,
        data={name: found.sha256 for name, found in prepared},
        code={label: plugin.sha256 for label, plugin in plan.plugins.items()},
        untuned=plan.untuned(),
        unpublished=[name for name, found in prepared if not found.published] or msgspec.UNSET))


class ProcessorSlots:
    """The cores or GPUs of this machine, shared by the trials of all commands in a results folder.

    Args:
        folder: The results folder, which other machines may share.
        kind: What they are, in one word.
        names: What names each of them; commands of a folder agree on it.
    """

    def __init__(self, folder: Path, kind: str, names: Sequence[str]) -> None:
        place = folder / ".slots" / socket.gethostname() / kind
        place.mkdir(parents=True, exist_ok=True)
        self._counting = FileLock(place / "counting")
        self._locks = {name: FileLock(place / name) for name in names}

    @contextlib.contextmanager
    def reserve(self, ranks: int) -> Iterator[tuple[str, ...]]:
        """Reserve one for each rank, or all there are, while the block runs.

        Yields:
            The names of those reserved; none if too few were free.
        """
        wanted = min(ranks, len(self._locks))
        with contextlib.ExitStack() as held:
            free: list[str] = []
            with self._counting:
                for name, lock in self._locks.items():
                    if len(free) == wanted:
                        break
                    with contextlib.suppress(Timeout):
                        lock.acquire(timeout=0)
                        held.callback(lock.release)
                        free.append(name)
                if len(free) < wanted:
                    held.close()
            yield tuple(free) if len(free) == wanted else ()


class HelperJob(msgspec.Struct, frozen=True):
    """What a helper reads from its standard input, as a line of JSON.

    Attributes:
        study: The study.
        prepared: Folder, fingerprint and source of each data set, by name.
        folder: The results folder.
        execution: How the helper runs the trials.
    """

    study: Study
    prepared: dict[str, tuple[str, str, str]]
    folder: str
    execution: Execution


class Helper(NamedTuple):
    """A running helper, and the file with its standard error."""

    process: subprocess.Popen[str]
    errors: IO[str]


@contextlib.contextmanager
def running_helpers(plan: Plan, folder: Path, execution: Execution) -> Iterator[Sequence[Helper]]:
    """Run helpers, one less than trials side by side, while the block runs; then end them.

    A helper starts none itself.
    """
    job = HelperJob(
        plan.study, {name: (require_utf8("decoded data", data.folder), data.sha256, data.source)
                     for name, data in plan.prepared.items()},
        str(folder), structs.replace(execution, reports=execution.jobs_timed, helper=True))
    started: list[Helper] = []
    with contextlib.ExitStack() as files:
        try:
            for _ in range(0 if execution.helper else execution.jobs - 1):
                errors = files.enter_context(tempfile.TemporaryFile(
                    "w+", encoding="utf-8", errors="replace"))
                started.append(_start_helper(job, errors))
            yield started
        finally:
            for helper in started:
                helper.process.terminate()
            for helper in started:
                try:
                    helper.process.wait(execution.grace_s + _END_WAIT_S)
                except subprocess.TimeoutExpired:
                    helper.process.kill()
                    helper.process.wait()
                assert helper.process.stdin is not None
                helper.process.stdin.close()


def wait_for_helpers(started: Sequence[Helper]) -> list[str]:
    """Wait until helpers have ended; return a line for each that failed, with its last words."""
    failed = []
    for number, helper in enumerate(started, 1):
        if helper.process.wait():
            helper.errors.seek(0)
            said = helper.errors.read().strip().splitlines() or ["it said nothing"]
            failed.append(f"helper {number} ended with code {helper.process.returncode}, so this "
                          f"command did its part: {said[-1]}")
    return failed


def _start_helper(job: HelperJob, errors: IO[str]) -> Helper:
    # -P: a file in the working folder must not stand in for a module of that name.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench_apts.study.scheduler"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its exit code will tell
        # The pipe stays open: at its end, when this command is gone, the helper ends too.
        process.stdin.write(msgspec.json.encode(job).decode() + "\n")
        process.stdin.flush()
    return Helper(process, errors)
