"""A program that runs trials beside those of the command that started it (jobs.py)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import msgspec
from rich.console import Console

from bench_apts.core.errors import UserError
from bench_apts.launch.elastic import Interrupted, interruptible
from bench_apts.study import scheduler as studies
from bench_apts.study.execution import StudyJob
from bench_apts.study.plan import Plan
from bench_apts.study.progress import StudyProgress
from bench_apts.suites.data import Prepared


def main() -> int:
    """Reads what to do from standard input, does it, and ends when that is closed.

    Returns:
        The exit code; standard error says why it is not 0.
    """
    try:
        with interruptible():
            _help()
    except Interrupted as error:
        return 128 + error.number
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _help() -> None:
    work = msgspec.json.decode(sys.stdin.readline(), type=StudyJob)
    threading.Thread(target=_watch, daemon=True).start()
    folder = Path(work.folder)
    plan = Plan(work.study, {name: Prepared(name, Path(place), sha256, source)
                             for name, (place, sha256, source) in work.prepared.items()})
    with (open(os.devnull, "w", encoding="utf-8") as nowhere,
          studies.open_results_folder(folder, shared=True)):
        studies.run_study(plan, folder, StudyProgress(Console(file=nowhere)), work.execution)


def _watch() -> None:
    """Ends this command with the one that started it."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
