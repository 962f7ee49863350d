"""Peak memory: of the device where there is one, else of the process."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    """Starts a new peak, so that what the process did before does not count."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        # 5 resets the kernel's high-water mark of the resident set (man 5 proc).
        with contextlib.suppress(OSError):  # /proc may be read-only in a container
            _CLEAR_REFS.write_text("5")


def peak_bytes(device: str) -> int:
    """Returns the peak since ``reset_peak``: device memory on CUDA, else the resident set.

    The resident set includes what the process shares with others (torch's libraries, the
    memory-mapped data).
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
