"""Helper commands, which share a study's folder with the command that starts them.

A helper takes tuning trials as any command does that is given ``--shared``. No more ranks run at
once than the machine has cores; on GPUs each helper has its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from bench_apts.core import environment
from bench_apts.core.spec import Study
from bench_apts.study.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_AFTER_S = 10.0
"""How long a helper may take to end, beyond what a trial may take to write a checkpoint."""


class Work(msgspec.Struct, frozen=True):
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
def helpers(work: Work) -> Iterator[Sequence[Helper]]:
    """Runs helpers, one less than trials side by side, while the block does; then ends them.

    A helper has none of its own.
    """
    started: list[Helper] = []
    with contextlib.ExitStack() as files:
        try:
            for number in range(1, 1 if work.execution.jobs.helper else work.execution.jobs.count):
                errors = files.enter_context(tempfile.TemporaryFile(
                    "w+", encoding="utf-8", errors="replace"))
                started.append(_start(work, number, errors))
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


def wait(started: Sequence[Helper]) -> list[str]:
    """Waits until helpers have ended, and returns the last words of those that failed."""
    words = []
    for number, helper in enumerate(started, 1):
        if helper.process.wait():
            helper.errors.seek(0)
            said = helper.errors.read().strip().splitlines() or ["it said nothing"]
            words.append(f"helper {number} ended with code {helper.process.returncode}, so this "
                         f"command did its part: {said[-1]}")
    return words


def _start(work: Work, number: int, errors: IO[str]) -> Helper:
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
        [sys.executable, "-P", "-m", "bench_apts.study.splitting.helper"], env=environ,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its exit code will tell
        # The pipe stays open: at its end, when this command is gone, the helper ends too.
        process.stdin.write(msgspec.json.encode(work).decode() + "\n")
        process.stdin.flush()
    return Helper(process, errors)
