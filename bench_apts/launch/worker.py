"""Where an exception of a rank belongs: the plug-in's own line, if it passed there.

Notices ranks that are gone with exit code 0 but without an answer, as after ``os._exit(0)``.

torch's agent takes exit code 0 for a success, and would wait for the answer until the time limit.

Where ranks were when their time was up: each writes its stack as the agent's signal ends it.

The function that each rank runs, with what must hold before torch is used.
"""

from __future__ import annotations

import ctypes
import faulthandler
import inspect
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench_apts.core import process_limits
from bench_apts.core.job import RankJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.spec import Trial

_MARK = "where: "


def attach_location(error: BaseException, trial: Trial) -> None:
    """Attach the place to an exception, for ``place`` to find in its printed traceback."""
    error.add_note(_MARK + _locate(error, trial))


def attached_location(callstack: str) -> str:
    """Return the place that ``note`` has attached; empty where it has not."""
    _, marked, rest = callstack.rpartition(f"\n{_MARK}")
    return rest.splitlines()[0] if marked and rest else ""


def _locate(error: BaseException, trial: Trial) -> str:
    """Name the file and line in the plug-in, else the innermost ones outside torch."""
    own, name = _plugin_source(trial.plugin), trial.plugin.rpartition("/")[2].partition(":")[0]
    frames = [frame for link in _exception_chain(error)
              for frame in traceback.extract_tb(link.__traceback__)[::-1]]
    for frame in frames:
        if _within(Path(frame.filename), own):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    # The harness asked an object of the plug-in for what it lacks.
    kind = type(getattr(error, "obj", None))
    with suppress(OSError, TypeError):
        if _within(Path(inspect.getfile(kind)), own):
            return f"{Path(inspect.getfile(kind)).name}:{inspect.getsourcelines(kind)[1]}"
    if type(error).__module__.startswith("bench_apts."):  # the harness judged the plug-in
        return name
    torch = Path(inspect.getfile(sys.modules["torch"])).parent
    return next((f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames
                 if torch not in Path(frame.filename).parents), name)


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _plugin_source(plugin: str) -> Path:
    """Return the plug-in's file, or the folder of the package that it belongs to."""
    if plugin.endswith(".py"):
        return Path(plugin).resolve()
    module = sys.modules.get(plugin.partition(":")[0])
    file = Path(getattr(module, "__file__", None) or plugin)
    return file.parent if module is not None and module.__package__ else file


def _within(file: Path, own: Path) -> bool:
    return own in (file.resolve(), *file.resolve().parents)


_PREFIX = "rank-"


class SilentExit(Exception):
    """A rank is gone without a word."""

    def __init__(self, ranks: str) -> None:
        super().__init__(f"{ranks} exited with code 0 before the trial was over, saying nothing "
                         "(os._exit?)")


def register_process(folder: Path) -> None:
    """Leave this rank's process id where the command looks for it.

    Args:
        folder: Of the trial's logs.
    """
    (folder / f"{_PREFIX}{os.environ['RANK']}").write_text(str(os.getpid()), encoding="ascii")


class RankWatch:
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


TIME_IS_UP = signal.SIGALRM
"""What the agent's own alarm is passed on to the ranks as."""

_FRAME = re.compile(rb'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$',
                    re.MULTILINE)
_DUMP = b"(most recent call first):"


def register_stack_dump() -> None:
    """Has this process write the stack of its main thread to its log before it is ended.

    That works inside a collective that never returns, since no Python code has to run for it.
    """
    faulthandler.register(TIME_IS_UP, all_threads=False, chain=True)


def stack_locations(logs: Path) -> str:
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


TRIAL = "bench_apts.trial.trial_run:main"
"""What a rank runs. It is found by name, as a launcher knows nothing of trials."""

_YIELD_S = 2.0
"""How long a rank that lost its peers lets the agent find the one that failed first."""

LOST_PEERS = re.compile(r"gloo|nccl|c10d|TCPStore|connection (closed|reset|refused)|broken pipe",
                        re.IGNORECASE)
"""What the errors of ranks say whose peers are gone: they are not where it began."""


def run_rank(payload: bytes) -> str:
    """Run one rank of a trial; see ``TRIAL``."""
    _die_with_the_command()
    # Ctrl-C reaches the whole terminal; the agent ends its ranks itself, without tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    register_stack_dump()
    import torch

    job = msgspec.json.decode(payload, type=RankJob)
    if job.stop:
        register_process(Path(job.stop).parent)
    torch.set_num_threads(process_limits.openmp_threads())
    try:
        return _answer(payload)
    except Exception as error:
        attach_location(error, job.trial)
        # The agent blames the first rank that it sees gone, and its peers fail within
        # milliseconds. It ends the waiting ones.
        if LOST_PEERS.search(str(error)):
            time.sleep(_YIELD_S)
        raise


def _answer(payload: bytes) -> str:
    """Return the trial's status; whatever else ends this process is an exception of its own.

    The launcher would take an exit with code 0 for an answer, and wait for the other ranks.
    """
    try:
        status: str = pkgutil.resolve_name(TRIAL)(payload)
        return status
    except Exception:
        raise
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"it raised {type(error).__name__}") from error


def _die_with_the_command() -> None:
    """Kills this process when the command that asked for it ends, however that happens."""
    command = multiprocessing.parent_process()
    if command is not None:

        def watch() -> None:
            command.join()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    # The fork server lives as long as its processes do, unless somebody kills it.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
