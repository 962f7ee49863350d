"""What machine, what versions, which commit: the card that stands in every record.

Nothing here imports torch or touches a GPU, so that ``bench-apts info`` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench_apts import git

PACKAGES = ("bench-apts", "torch", "torchvision", "deepspeed", "numpy", "optuna")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS",
         "SLURM_CPUS_PER_TASK")


def card() -> dict[str, Any]:
    """Returns the environment card: plain values, ready for JSON.

    Keys: ``hostname``, ``os``, ``cpu``, ``cores`` (that this process may use),
    ``memory_bytes``, ``gpus`` (names of the visible ones), ``gpu_driver``, ``python``,
    ``versions`` by package, ``commit`` and ``dirty`` (None outside a checkout of bench-apts),
    ``threads`` (set variables), ``container``, ``slurm`` and ``beside`` (how many other trials of
    the command might run at the same time).
    """
    commit, dirty = _commit()
    gpus, driver = _gpus()
    return {
        "hostname": socket.gethostname(),
        "os": _system(),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [name for _, name in _visible(gpus)],
        "gpu_driver": driver,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "container": _container(),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "beside": 0,
    }


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def memory_bytes() -> int:
    """Returns the machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_count() -> int:
    """Returns how many GPUs CUDA would show to this process, minding CUDA_VISIBLE_DEVICES."""
    return len(_visible(_gpus()[0]))


Gpu = tuple[str, str]


@lru_cache(maxsize=1)
def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """All GPUs of the machine as (uuid, name), and the driver's version."""
    listed = _run("nvidia-smi", "--query-gpu=uuid,name,driver_version", "--format=csv,noheader")
    rows = [line.split(", ") for line in (listed or "").splitlines()]
    if rows and all(len(row) == 3 for row in rows):
        return tuple((uuid, name) for uuid, name, _ in rows), rows[0][2]
    # Containers often lack nvidia-smi; the kernel module tells the same.
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        text = _read(path)
        name, uuid = (re.search(rf"^{key}:\s*(.+?)\s*$", text, re.MULTILINE)
                      for key in ("Model", "GPU UUID"))
        found.append((uuid[1] if uuid else "", name[1] if name else "NVIDIA GPU"))
    version = re.search(r"(\d+\.\d+(?:\.\d+)?)", _read(Path("/proc/driver/nvidia/version")))
    return tuple(found), version[1] if version and found else None


def _visible(gpus: tuple[Gpu, ...]) -> list[Gpu]:
    """Applies CUDA_VISIBLE_DEVICES as CUDA does: up to the first entry that names no GPU."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not gpus:
        return list(gpus)
    visible = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdigit() and int(entry) < len(gpus):
            visible.append(gpus[int(entry)])
        elif entry.startswith("MIG-"):
            visible.append((entry, f"a MIG slice of {gpus[0][1]}"))
        elif entry and (match := [gpu for gpu in gpus if gpu[0].startswith(entry)]):
            visible.append(match[0])
        else:
            break
    return visible


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=1)
def _commit() -> tuple[str | None, bool | None]:
    """The checkout's commit and whether tracked files differ from it; None elsewhere."""
    here = Path(__file__).resolve()
    top = _git(here.parent, "rev-parse", "--show-toplevel")
    # An environment inside somebody else's repository is not a checkout of ours.
    if not top or here.parent.parent != Path(top).resolve():
        return None, None
    commit = _git(here.parent, "rev-parse", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return commit, None if commit is None or changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    return _run("git", "-C", str(folder), *arguments)


def _run(*command: str) -> str | None:
    """Returns a command's output, None if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, env=git.environment(), capture_output=True, timeout=10,
                              text=True, errors="replace", check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _system() -> str:
    name = re.search(r'^PRETTY_NAME="?(.+?)"?$', _read(Path("/etc/os-release")), re.MULTILINE)
    kernel = f"{platform.system()} {platform.release()}"
    return f"{name[1]}, {kernel}" if name else kernel


def _cpu() -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return f"{model[1]} ({platform.machine()})" if model else platform.machine()


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "APPTAINER_CONTAINER" in os.environ or "SINGULARITY_CONTAINER" in os.environ:
        return "apptainer"
    return None
