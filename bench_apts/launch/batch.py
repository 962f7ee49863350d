"""What a batch system starts on each node of a job: one command, told of signals."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from submitit.core.utils import DelayedSubmission

_LOOK_S = 0.2


class Command:
    """A command line that submitit runs on each node.

    submitit hands its tasks over as pickles in its folder; this one holds strings and nothing
    else. Before the job's time is up submitit calls ``checkpoint`` and requeues the job.

    Args:
        arguments: The command line, program first.
        grace_s: How long the command may take to end in order, in seconds.
    """

    def __init__(self, arguments: Sequence[str], grace_s: float) -> None:
        self.arguments, self.grace_s = list(arguments), grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self.arguments, "grace_s": self.grace_s, "_process": None}

    def __call__(self) -> int:
        """Runs the command to its end.

        Returns:
            Its exit code: 0, or 143 if it was asked to stop and can go on another time.

        Raises:
            RuntimeError: It failed; the output of the job says why.
        """
        signal.signal(signal.SIGTERM, self._forward)  # it may come to this process alone
        print(shlex.join(self.arguments), flush=True)
        self._process = subprocess.Popen(self.arguments)
        while self._process.poll() is None:
            time.sleep(_LOOK_S)
        code = self._process.returncode
        if code not in (0, 128 + signal.SIGTERM):
            raise RuntimeError(f"the command ended with code {code}")
        return code

    def checkpoint(self) -> DelayedSubmission:
        """Ends the command in order; the same command goes on from there in the requeued job."""
        import psutil
        from submitit.core.utils import DelayedSubmission

        self._forward(signal.SIGTERM, None)
        if self._process is not None:
            # Not by Popen, which this has interrupted and which may hold its lock.
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(self._process.pid)
                for late in psutil.wait_procs([process], self.grace_s)[1]:
                    late.kill()
        return DelayedSubmission(self)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


def bench_apts(arguments: Sequence[str]) -> list[str]:
    """Returns the command line of ``bench-apts …`` in this Python."""
    return [sys.executable, "-m", "bench_apts", *arguments]
