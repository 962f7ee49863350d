"""Notices ranks that are gone with exit code 0 but without an answer, as after ``os._exit(0)``.

torch's agent takes exit code 0 for a success, and would wait for the answer until the time limit.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX = "rank-"


class SilentExit(Exception):
    """A rank is gone without a word."""

    def __init__(self, ranks: str) -> None:
        super().__init__(f"{ranks} exited with code 0 before the trial was over, saying nothing "
                         "(os._exit?)")


def tell(folder: Path) -> None:
    """Leave this rank's process id where the command looks for it.

    Args:
        folder: Of the trial's logs.
    """
    (folder / f"{_PREFIX}{os.environ['RANK']}").write_text(str(os.getpid()), encoding="ascii")


class Watch:
    """Looks whether all ranks of a trial on this node live.

    Args:
        folder: Of the trial's logs.
        ranks: How many there are.
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks = folder, ranks
        self._missed: set[int] = set()
        for left in folder.glob(f"{_PREFIX}*"):
            left.unlink()

    def look(self) -> None:
        """Raise ``SilentExit`` for ranks that were gone at the last look, too.

        In between the agent has looked, and found no exit code but 0. A rank with an answer waits
        until the agent has taken those of all ranks.
        """
        alive = {process.pid for process in multiprocessing.active_children()}
        if len(alive) >= self._ranks:
            return
        gone = {int(path.name.removeprefix(_PREFIX)) for path in self._folder.glob(f"{_PREFIX}*")
                if (content := path.read_text(encoding="ascii")) and int(content) not in alive}
        if again := sorted(gone & self._missed):
            raise SilentExit(f"rank{'s' * (len(again) > 1)} {', '.join(map(str, again))}")
        self._missed = gone
