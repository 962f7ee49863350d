"""Runs asv as it must be run: in this environment, on one thread, under a commit's name."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.environment import THREADS
from bench_apts.core.errors import UserError
from bench_apts.launch.elastic import interruptible
from bench_apts.regress.tracking.checkout import CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PATIENCE_S = 10.0
"""How long asv may take to end in order."""

_FAILURES = 2
"""asv's exit code where benchmarks failed; with it the others are stored all the same."""


def require_asv() -> None:
    """Refuses to go on without asv.

    Raises:
        UserError: It is not installed beside this package.
    """
    if importlib.util.find_spec("asv") is None:
        raise UserError("asv is not installed; `pip install 'bench-apts[dev]'` brings it")


def asv(root: Path, arguments: Sequence[str]) -> int:
    """Runs asv on one thread, its output going to the terminal; returns its exit code.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; asv and its benchmarks are gone.
    """
    threads = dict.fromkeys(THREADS, "1")
    # Unset, SIGINT would stay ignored in what a shell starts in the background.
    with interruptible(), subprocess.Popen(
            [sys.executable, "-m", "asv", *arguments], cwd=root, env=os.environ | threads,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            return process.wait()
        except BaseException as error:
            _end(process, told=isinstance(error, KeyboardInterrupt))
            raise


def _end(process: subprocess.Popen[bytes], told: bool) -> None:
    """Ends asv by SIGINT, on which alone it ends its benchmarks.

    Args:
        process: asv.
        told: Whether Ctrl-C may have reached it too; a second one would disturb its clearing up.
    """
    for signalled in (False, True) if told else (True,):
        if signalled:
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            return
    process.kill()


def require_machine(root: Path) -> str:
    """Introduces this machine to asv, if nobody has; returns asv's name of it.

    Raises:
        UserError: asv cannot keep what it knows of the machine.
    """
    from asv.machine import Machine, MachineCollection
    from asv.util import UserError as Unknown

    name = str(Machine.get_unique_machine_name())
    try:
        known = MachineCollection.load(name)
    except Unknown:
        done = subprocess.run([sys.executable, "-m", "asv", "machine", "--yes"], cwd=root,
                              check=False, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"`asv machine --yes` failed: {done.stderr or done.stdout}") from None
        known = MachineCollection.load(name)
    return str(known["machine"])


class Settings(NamedTuple):
    """What of asv's configuration matters here.

    Attributes:
        results: Folder of its results.
        thresholds: By regular expression of a benchmark's name, the share by which its number
            may rise before asv calls it a regression.
    """

    results: Path
    thresholds: Mapping[str, float]


def settings(root: Path) -> Settings:
    """Reads the checkout's configuration of asv.

    Raises:
        UserError: asv cannot read it.
    """
    from asv.config import Config
    from asv.util import UserError as Broken

    try:
        config = Config.load(str(root / CONFIGURATION))
    except (Broken, ValueError) as error:  # the latter from the parser that asv uses
        raise UserError(f"{root / CONFIGURATION}: {error}") from error
    return Settings(root / config.results_dir, config.regressions_thresholds)


class Stored(NamedTuple):
    """How a run ended.

    Attributes:
        file: Where the numbers are, None where none were to be stored.
        failures: Whether a benchmark failed.
    """

    file: Path | None
    failures: bool


def run(root: Path, results: Path, machine: str, commit: str, bench: Sequence[str] = (),
        quick: bool = False, store: bool = True) -> Stored:
    """Runs the benchmarks.

    Args:
        root: The checkout.
        results: asv's folder of results.
        machine: asv's name of this one.
        commit: The hash under which the numbers are stored.
        bench: Regular expressions of which one must be found in a benchmark's name; all without.
        quick: Runs everything once, which tells whether it works, and stores nothing.
        store: Whether anything is stored.

    Raises:
        UserError: asv gave up, so that there are no numbers.
    """
    store = store and not quick
    before = _times(results, machine, commit)
    code = asv(root, ["run", "--environment", "existing:same", "--set-commit-hash", commit,
                      "--show-stderr", "--no-pull",
                      *(word for pattern in bench for word in ("--bench", pattern)),
                      *["--quick"] * quick, *["--dry-run"] * (not store)])
    written = [path for path, time in _times(results, machine, commit).items()
               if before.get(path) != time]
    if code not in (0, _FAILURES) or (store and not written):
        raise UserError(f"asv ended with exit code {code}, as it says above; nothing was stored")
    return Stored(written[0] if written else None, code == _FAILURES)


def _times(results: Path, machine: str, commit: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns
            for path in (results / machine).glob(f"{commit[:8]}-*.json")}
