"""The command line: one file per command; parse, call, print."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Runs the command line; Ctrl-C ends it in order from here on."""
    try:
        # Takes a good part of a second on a busy machine, in which users change their minds.
        from bench_apts.cli import commands

        commands.main()
    except KeyboardInterrupt:
        print("bench-apts: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
