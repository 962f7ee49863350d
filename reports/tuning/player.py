"""A process beside a report's own that replays tuning policies while the report is drawn.

``python -m bench_apts.reports.tuning.player`` reads jobs from standard input, plays them, writes
what they found to standard output, and ends early when its input is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING, BinaryIO, Self

import msgspec

from bench_apts.core.errors import UserError
from bench_apts.stats.curves import Curve, Direction
from bench_apts.stats.replay import Replayed, replay_all

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZE = 8
"""Bytes of the number that says how long a message is."""


class Job(msgspec.Struct):
    """All policies that draw from one optimizer's trials; see ``replay_all``.

    Attributes:
        curves: The trials.
        direction: Of the target's metric.
        races: Numbers of trials that race.
        limit: How many trials arrive in an order.
    """

    curves: list[Curve]
    direction: Direction
    races: tuple[int, ...]
    limit: int

    def play(self) -> dict[str, Replayed]:
        """Returns what each policy costs; the same wherever it is played."""
        return replay_all(self.curves, self.direction, races=self.races, limit=self.limit)


class Player:
    """Plays jobs in a process of its own, which ends with this one at the latest.

    Args:
        jobs: What to play; without any there is no process.

    Raises:
        UserError: No process can be started.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._found: list[dict[str, Replayed]] = []
        self._process: subprocess.Popen[bytes] | None = None
        if not jobs:
            return
        with contextlib.ExitStack() as stack:
            self._errors = stack.enter_context(
                tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            try:
                # Only the report's own end ends it: Ctrl-C is for the report to answer. -P: a
                # file in the working folder must not stand in for a module of that name.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=self._errors, process_group=0)
            except OSError as error:
                raise _failed(f"cannot be started: {error.strerror}") from error
            stack.callback(_end, self._process)
            with contextlib.suppress(BrokenPipeError):  # its exit code will tell
                _send(_stream(self._process.stdin), msgspec.msgpack.encode(jobs))
            self._held = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        if self._process is not None:
            self._process = None
            self._held.close()

    def found(self) -> list[dict[str, Replayed]]:
        """Returns what each job found, in their order; waits for it the first time.

        Raises:
            UserError: The process ended without an answer.
        """
        if self._process is not None:
            answer = _stream(self._process.stdout).read()
            code = self._process.wait()
            if code:
                self._errors.seek(0)
                said = self._errors.read().strip().splitlines() or ["it said nothing"]
                raise _failed(f"ended with {_ending(code)}: {said[-1]}")
            self._found = msgspec.msgpack.decode(answer, type=list[dict[str, Replayed]])
            self.close()
        return self._found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError), process:  # closes its pipes and waits for it
        pass


def _failed(how: str) -> UserError:
    return UserError(f"the process that replays tuning policies {how}; free some memory and run "
                     "the command again")


def _ending(code: int) -> str:
    return f"code {code}" if code > 0 else signal.Signals(-code).name


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(_SIZE))
    pipe.write(message)
    pipe.flush()


def main(given: BinaryIO, answer: BinaryIO) -> None:
    """Plays the jobs that stand in ``given``, and writes to ``answer`` what they found."""
    size = int.from_bytes(given.read(_SIZE))
    jobs = msgspec.msgpack.decode(given.read(size), type=list[Job])
    threading.Thread(target=_watch, args=(given.fileno(),), daemon=True).start()
    answer.write(msgspec.msgpack.encode([job.play() for job in jobs]))


def _watch(given: int) -> None:
    """Ends this process with the one that started it, which holds the pipe open until then."""
    os.read(given, 1)  # of the descriptor: a stream's lock would be missed when Python ends
    os._exit(1)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
