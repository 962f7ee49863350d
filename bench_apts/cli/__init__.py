"""The command line: one file per command; parse, call, print."""

from __future__ import annotations

import os
import signal
import sys

from bench_apts.core import interrupts


def main() -> None:
    """Run the command line; Ctrl-C ends it in order from here on."""
    _open_standard_streams()
    interrupts.resend_lost_signals()
    try:
        # Takes a good part of a second on a busy machine, in which Ctrl-C may come.
        from bench_apts.cli import commands

        commands.main()
    except KeyboardInterrupt:
        print("bench-apts: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        # An interrupt within exec(), by which dataclasses are made, marks the interpreter as ended
        # by SIGINT even if it is caught; another exec() removes the mark.
        exec("")


def _open_standard_streams() -> None:
    """Replace missing standard streams, as after ``>&-``, by the null device.

    Otherwise the next file that is opened would get the number of the missing stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it has that number
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
