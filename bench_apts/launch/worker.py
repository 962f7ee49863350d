"""What each rank runs, and what the command learns of its ranks: that they live, where they are.

torch reports to the launcher how a rank ended, but for three things: that a rank has exited with
code 0 without an answer (``RankWatch``), where a rank was that hung until the time limit
(``stack_locations``), and which line of the plug-in is at fault (``attach_location``).
"""

from __future__ import annotations

import ctypes
import faulthandler
import inspect
import multiprocessing
import os
import pkgutil
import re
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench_apts.core import process_limits
from bench_apts.core.job import RankJob
from bench_apts.launch import late_imports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.spec import Trial

LOST_PEERS = re.compile(r"gloo|nccl|c10d|TCPStore|connection (closed|reset|refused)|broken pipe",
                        re.IGNORECASE)
"""Errors of ranks whose peers are gone: consequences, not the cause."""

_YIELD_S = 2.0
"""How long a rank that lost its peers lets the launcher find the one that failed first."""


def run_rank(payload: bytes) -> str:
    """Run one rank of a trial.

    Args:
        payload: A ``RankJob`` as JSON.

    Returns:
        The trial's status.
    """
    _die_with_the_command()
    # Ctrl-C reaches the whole terminal; the launcher ends its ranks itself, without tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The main thread's stack goes to the log even from inside a collective that never returns, as
    # no Python code has to run for it; ``chain`` then ends the process.
    faulthandler.register(signal.SIGALRM, all_threads=False, chain=True)
    import torch

    job = msgspec.json.decode(payload, type=RankJob)
    if job.stop:
        pid_file = Path(job.stop).with_name(f"{_PID_FILE}{os.environ['RANK']}")
        pid_file.write_text(str(os.getpid()), encoding="ascii")
    torch.set_num_threads(process_limits.openmp_threads())
    folder = job.stop and os.environ["LOCAL_RANK"] == "0" and Path(job.stop).parent
    try:
        with late_imports.recorded(folder) if folder else nullcontext():
            return _answer(job.program, payload)
    except Exception as error:
        attach_location(error, job.trial)
        # The launcher blames the first rank that it sees gone, and its peers fail within
        # milliseconds. It ends the waiting ones.
        if LOST_PEERS.search(str(error)):
            time.sleep(_YIELD_S)
        raise
    finally:
        if job.stop:
            _announce_end(Path(job.stop).with_name(_ENDING))


def _announce_end(fifo: Path) -> None:
    """Let the launcher look at once for what this rank is about to leave."""
    with suppress(OSError):  # it has stopped waiting
        number = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(number, b"\0")
        os.close(number)


def _answer(program: str, payload: bytes) -> str:
    """Return the program's status; turn whatever else ends this process into an exception.

    The launcher would take an exit with code 0 for an answer, and wait for the other ranks.
    """
    try:
        status: str = pkgutil.resolve_name(program)(payload)
        return status
    except Exception:
        raise
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"it raised {type(error).__name__}") from error


def _die_with_the_command() -> None:
    """Kill this process when the command that started it ends, however that happens."""
    command = multiprocessing.parent_process()
    if command is not None:

        def watch() -> None:
            command.join()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    # The fork server lives as long as its processes do, unless it is killed.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_PID_FILE, _ENDING = "rank-", "ending"
_POLL_S, _SOON_S = 0.05, 0.002
"""Seconds between two looks at the ranks, and while one of them ends."""

_ENDING_S = 0.2
"""Seconds that a rank that ends may take to leave its answer."""


class SilentExit(Exception):
    """A rank exited with code 0 without an answer, as after ``os._exit(0)``."""

    def __init__(self, ranks: str) -> None:
        super().__init__(f"{ranks} exited with code 0 before the trial was over, saying nothing "
                         "(os._exit?)")


class RankWatch:
    """Waits for all ranks of a trial on this node, and checks that they are alive.

    torch takes exit code 0 for a success, and would wait for the answer until the time limit.

    Args:
        folder: The folder of the trial's logs, in which each rank writes its process id.
        ranks: How many there are.
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks = folder, ranks
        self._missed: set[int] = set()
        for left in folder.glob(f"{_PID_FILE}*"):
            left.unlink()
        fifo = folder / _ENDING
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        self._ending = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._soon_until = 0.0

    def close(self) -> None:
        """Stop waiting for announcements."""
        os.close(self._ending)

    def wait(self) -> None:
        """Return when it is time to poll the ranks: soon after one has announced its end."""
        if time.monotonic() < self._soon_until:
            time.sleep(_SOON_S)
        elif select.select([self._ending], [], [], _POLL_S)[0]:
            os.read(self._ending, 1 << 12)
            self._soon_until = time.monotonic() + _ENDING_S

    def look(self) -> None:
        """Raise ``SilentExit`` for ranks that were already gone at the last look.

        In between torch has polled the ranks, and found no exit code but 0. A rank with an answer
        waits until torch has received those of all ranks.
        """
        alive = {process.pid for process in multiprocessing.active_children()}
        if len(alive) >= self._ranks:
            return
        gone = {int(path.name.removeprefix(_PID_FILE))
                for path in self._folder.glob(f"{_PID_FILE}*")
                if (content := path.read_text(encoding="ascii")) and int(content) not in alive}
        if again := sorted(gone & self._missed):
            raise SilentExit(f"rank{'s' * (len(again) > 1)} {', '.join(map(str, again))}")
        self._missed = gone


_DUMP = b"(most recent call first):"
_FRAME = re.compile(rb'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.*)$',
                    re.MULTILINE)


def stack_locations(logs: Path) -> str:
    """Say in which function each rank was when its time was up, grouped by location.

    Args:
        logs: The folder that torch's launcher keeps a trial's logs in.

    Returns:
        For instance ``"rank 0 was in all_reduce (distributed_c10d.py, line 3000), rank 1 in step
        (mine.py, line 20)"``; empty if no rank wrote its stack.
    """
    found: dict[str, list[int]] = {}
    for log in logs.glob("*/attempt_*/*/stderr.log"):
        _, dumped, stack = log.read_bytes().rpartition(_DUMP)
        if dumped and (frame := _FRAME.search(stack)):
            file = frame["file"].decode(errors="replace").rpartition("/")[2]
            name = frame["name"].decode(errors="replace")
            where = f"{name} ({file}, line {int(frame['line'])})"
            found.setdefault(where, []).append(int(log.parent.name))
    parts: list[str] = []
    for ranks, where in sorted((sorted(ranks), where) for where, ranks in found.items()):
        verb = "" if parts else " was" if len(ranks) == 1 else " were"
        parts.append(f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}{verb} in {where}")
    return ", ".join(parts)


_MARK = "where: "


def attach_location(error: BaseException, trial: Trial) -> None:
    """Attach a location to an exception, for ``attached_location`` to find in its traceback."""
    error.add_note(_MARK + _locate(error, trial))


def attached_location(callstack: str) -> str:
    """Return the location attached to a printed exception; empty where there is none."""
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
    # An attribute that the harness looked up in vain, in an object of the plug-in.
    kind = type(getattr(error, "obj", None))
    with suppress(OSError, TypeError):
        if _within(Path(inspect.getfile(kind)), own):
            return f"{Path(inspect.getfile(kind)).name}:{inspect.getsourcelines(kind)[1]}"
    if type(error).__module__.startswith("bench_apts."):  # a finding on the plug-in as a whole
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
