"""The command line: one file per command; parse, call, print."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Runs the command line; Ctrl-C ends it in order from here on."""
    _open_standard_streams()
    try:
        # Takes a good part of a second on a busy machine, in which users change their minds.
        from bench_apts.cli import commands

        commands.main()
    except KeyboardInterrupt:
        print("bench-apts: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        # An interrupt within exec(), by which dataclasses are made, marks the interpreter as ended
        # by SIGINT, whatever is caught later; this takes the mark away.
        exec("")


def _open_standard_streams() -> None:
    """Give a command that was started without standard streams, as by ``>&-``, the null device.

    Else the next file that it opens would take the number of the missing stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has that number
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
