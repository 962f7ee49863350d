"""Where ranks were when their time was up: each writes its stack as the agent's signal ends it."""

from __future__ import annotations

import faulthandler
import re
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TIME_IS_UP = signal.SIGALRM
"""What the agent's own alarm is passed on to the ranks as."""

_FRAME = re.compile(rb'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$',
                    re.MULTILINE)
_DUMP = b"(most recent call first):"


def register() -> None:
    """Has this process write the stack of its main thread to its log before it is ended.

    That works inside a collective that never returns, since no Python code has to run for it.
    """
    faulthandler.register(TIME_IS_UP, all_threads=False, chain=True)


def places(logs: Path) -> str:
    """Says in which function each rank was, those of one place together.

    Args:
        logs: The folder that torch's launcher keeps a trial's logs in.

    Returns:
        For instance ``"rank 0 was in all_reduce (distributed_c10d.py, line 3000), rank 1 in step
        (mine.py, line 20)"``; empty if no rank could tell.
    """
    found: dict[str, list[int]] = {}
    for log in logs.glob("*/attempt_*/*/stderr.log"):
        place = _innermost(log)
        if place:
            found.setdefault(place, []).append(int(log.parent.name))
    groups = sorted((sorted(ranks), place) for place, ranks in found.items())
    return ", ".join(f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
                     f"{' was' * (number == 0 and len(ranks) == 1)}"
                     f"{' were' * (number == 0 and len(ranks) > 1)} in {place}"
                     for number, (ranks, place) in enumerate(groups))


def _innermost(log: Path) -> str | None:
    _, dumped, stack = log.read_bytes().rpartition(_DUMP)
    frame = _FRAME.search(stack) if dumped else None
    if frame is None:
        return None
    file = frame["file"].decode(errors="replace").rpartition("/")[2]
    return f"{frame['name'].decode(errors='replace')} ({file}, line {int(frame['line'])})"
