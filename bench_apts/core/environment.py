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
from typing import TYPE_CHECKING, Any

from bench_apts.core import binding, git, limits
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("bench-apts", "torch", "torchvision", "deepspeed", "numpy", "optuna")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_THREADING = (*THREADS, "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_WAIT_POLICY", "OMP_SCHEDULE",
              "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_DYNAMIC")
_SWITCHES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
             "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "CUDA_LAUNCH_BLOCKING",
             "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "LD_PRELOAD", "MALLOC_ARENA_MAX",
             "NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS",
         "SLURM_CPUS_PER_TASK")

_MISSING = "not installed"
_PATIENCE_S = 10


def card() -> dict[str, Any]:
    """Returns the environment card: plain values, ready for JSON.

    Keys: ``hostname``, ``os``, ``cpu``, ``cores`` (that this process may use), ``affinity``
    (their numbers), ``cpu_quota`` (in cores, None without one), ``effective_cores`` (see
    ``usable_cores``), ``memory_bytes`` (see there), ``memory_limit_bytes`` and
    ``address_space_bytes`` (None without one), ``gpus`` (names of the visible ones),
    ``gpu_driver``, ``python``, ``versions`` by package, ``commit`` and ``dirty`` (None where they
    are unknown, and then ``commit_unknown`` says why), ``threads``, ``binding`` and ``switches``
    (variables that are set), ``container``, ``slurm`` and ``beside`` (how many other trials of the
    command might run at the same time).
    """
    commit, dirty, unknown = _commit()
    gpus, driver = _gpus()
    allowed = binding.affinity()
    usable = usable_cores()
    return {
        "hostname": socket.gethostname(),
        "os": _system(),
        "cpu": _cpu(),
        "cores": len(allowed),
        "affinity": binding.spans(allowed),
        "cpu_quota": limits.cpu_quota(),
        "effective_cores": int(usable) if usable.is_integer() else usable,
        "memory_bytes": memory_bytes(),
        "memory_limit_bytes": limits.memory_limit(),
        "address_space_bytes": limits.address_space(),
        "gpus": [name for _, name in _visible(gpus)],
        "gpu_driver": driver,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        **({"commit_unknown": unknown} if unknown else {}),
        "threads": _set(_THREADING),
        "binding": _set(binding.VARIABLES),
        "switches": _set(_SWITCHES),
        "container": _container(),
        "slurm": _set(SLURM),
        "beside": 0,
    }


def usable_cores() -> float:
    """Return how many CPU cores ranks of this process can keep busy.

    Those that it may use, as far as OpenMP's binding lets ranks onto them, or the CPU quota of its
    control groups if that is less, for instance 0.5.
    """
    cores = len(binding.bound(binding.affinity(), os.environ))
    quota = limits.cpu_quota()
    return float(cores) if quota is None else min(float(cores), quota)


def cores() -> int:
    """Return how many ranks can each have a core of their own, at least 1."""
    return max(1, int(usable_cores()))


def memory_bytes() -> int:
    """Return the machine's main memory, or the limit of the control groups if that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = limits.memory_limit()
    return there if limit is None else min(there, limit)


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that importable packages come from, by package."""
    return {module: _version(_distribution(module)) for module in modules}


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
        return _MISSING


@lru_cache
def _distribution(module: str) -> str:
    """Return the name of the distribution that a module comes from: often its own name."""
    top = module.partition(".")[0]
    if _version(top) != _MISSING:
        return top
    return next(iter(importlib.metadata.packages_distributions().get(top, [])), top)


def _set(names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables of these names that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


@lru_cache(maxsize=1)
def _commit() -> tuple[str | None, bool | None, str]:
    """The checkout's commit, whether tracked files differ from it, and why they are unknown."""
    top = Path(__file__).resolve().parents[2]
    # An environment inside somebody else's repository is not a checkout of ours.
    if not (top / ".git").exists():
        return None, None, "installed outside a git checkout"
    commit = None
    try:
        commit = git.text(top, "rev-parse", "HEAD", timeout=_PATIENCE_S)
        changed = git.text(top, "status", "--porcelain", "--untracked-files=no",
                           timeout=_PATIENCE_S)
    except UserError as error:
        return commit, None, str(error)
    return commit, bool(changed), ""


def _run(*command: str) -> str | None:
    """Returns a command's output, None if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, env=git.environment(), capture_output=True,
                              timeout=_PATIENCE_S,
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
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if image:
        return f"apptainer {Path(image).name}"
    return (_read(Path("/run/systemd/container")).strip() or os.environ.get("container")  # noqa: SIM112
            or None)
