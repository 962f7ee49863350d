"""Trials side by side: how many there can be, and the cores that they run on."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import msgspec
from filelock import FileLock, Timeout

from bench_apts.core import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_apts.core.spec import Study


class Jobs(msgspec.Struct, frozen=True):
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


ALONE = Jobs()


def fitting(asked: int, study: Study) -> tuple[int, str]:
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


class Slots:
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
