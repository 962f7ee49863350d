"""The GPUs that CUDA shows to ranks, found without torch and without a CUDA context here."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bench_apts.core.files import find_in_file

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that says which GPUs CUDA shows, and in which order; all where it is not set."""

_TIMEOUT_S = 10
"""Seconds that nvidia-smi may take."""

_TORCH_TIMEOUT_S = 120
_ASK_TORCH = """
import torch
for number in range(torch.cuda.device_count()):
    found = torch.cuda.get_device_properties(number)
    print(f"GPU-{found.uuid}, {found.name}")
"""

_MIG_LINE = re.compile(r"^\s+(MIG\s+\S+)\s.*\(UUID: (MIG-[^)]+)\)")
"""Of ``nvidia-smi -L``: a slice, below the line of the GPU that it belongs to."""


class Gpu(NamedTuple):
    """A GPU, or a slice of one; the UUID is empty where it is not known."""

    uuid: str
    name: str


def gpu_count() -> int:
    """Return how many GPUs CUDA shows to a process, given CUDA_VISIBLE_DEVICES."""
    return len(visible())


def visible() -> list[Gpu]:
    """Return the GPUs that CUDA shows to a process.

    They are those that CUDA_VISIBLE_DEVICES names, up to the first entry that names none. Of MIG
    slices CUDA shows a process the first alone.
    """
    setting = os.environ.get(VISIBLE)
    if setting == "":
        return []
    gpus = _machine()[0]
    if setting is None or not gpus:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.startswith("MIG-"):
            return found or [_slice(entry, gpus)]
        gpu = _named(entry, gpus)
        if gpu is None:
            break
        if any(gpu is other for other in found):
            return []  # CUDA shows none where one is named twice
        found.append(gpu)
    return found


def selectors() -> list[str]:
    """Return what names each visible GPU in CUDA_VISIBLE_DEVICES, in their order."""
    gpus, setting = visible(), os.environ.get(VISIBLE)
    written = setting.split(",") if setting else [*map(str, range(len(gpus)))]
    return [gpu.uuid or name.strip() for gpu, name in zip(gpus, written, strict=False)]


def driver() -> str | None:
    """Return the version of the driver; None without a visible GPU, or where it is not known."""
    return _machine()[1] if visible() else None


def cuda_compiler() -> str | None:
    """Return nvcc's path, where torch looks for it when it builds extensions; None without it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=f"{home}/bin") if home else (
        shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"))


@lru_cache(maxsize=1)
def _machine() -> tuple[tuple[Gpu, ...], str | None]:
    """Return all GPUs of the machine, and the driver's version."""
    listed = _run("nvidia-smi", "--query-gpu=uuid,name,driver_version", "--format=csv,noheader")
    rows = [line.split(", ") for line in (listed or "").splitlines()]
    if rows and all(len(row) == 3 for row in rows):
        return tuple(Gpu(uuid, name) for uuid, name, _ in rows), rows[0][2]
    # Containers often lack nvidia-smi; the kernel module has the same information.
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        name, uuid = (find_in_file(rf"^{key}:\s*(.+?)\s*$", path) for key in ("Model", "GPU UUID"))
        found.append(Gpu(uuid or "", name or "NVIDIA GPU"))
    version = find_in_file(r"(\d+\.\d+(?:\.\d+)?)", Path("/proc/driver/nvidia/version"))
    return (tuple(found), version) if found else (_by_torch(), None)


def _by_torch() -> tuple[Gpu, ...]:
    """Ask torch, in a process of its own, where CUDA's driver is there at all."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    listed = _run(sys.executable, "-P", "-c", _ASK_TORCH, timeout_s=_TORCH_TIMEOUT_S)
    rows = [line.partition(", ") for line in (listed or "").splitlines()]
    return tuple(Gpu(uuid, name) for uuid, _, name in rows)


def _named(entry: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Return the GPU that an entry names by its number or the beginning of its UUID."""
    if entry.isdigit():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    match = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
    return match[0] if len(match) == 1 else None


def _slice(uuid: str, gpus: tuple[Gpu, ...]) -> Gpu:
    """Return a MIG slice, with the name that CUDA gives it where nvidia-smi lists it."""
    whole = gpus[0].name
    for line in (_run("nvidia-smi", "-L") or "").splitlines():
        if line.startswith("GPU "):
            whole = line.partition(":")[2].partition("(UUID")[0].strip()
        elif (match := _MIG_LINE.match(line)) and match[2] == uuid:
            return Gpu(uuid, f"{whole} {match[1]}")
    return Gpu(uuid, f"a MIG slice of {gpus[0].name}")


def _run(*command: str, timeout_s: float = _TIMEOUT_S) -> str | None:
    """Return a command's output; None if it is missing, fails or takes too long."""
    asked = {name: value for name, value in os.environ.items() if name != VISIBLE}
    try:
        done = subprocess.run(command, env=asked, capture_output=True, timeout=timeout_s,
                              text=True, errors="replace", check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
