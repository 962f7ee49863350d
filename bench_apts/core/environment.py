"""What machine, which versions, which commit: the environment card that stands in every record.

Nothing here imports torch or touches a GPU before a rank asks for torch's own settings, so that
``bench-apts info`` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.core import gpu_devices, process_limits
from bench_apts.core.errors import UserError, last_line
from bench_apts.core.files import find_in_file, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("bench-apts", "torch", "torchvision", "deepspeed", "numpy", "optuna")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_THREADING = (*THREADS, "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_WAIT_POLICY", "OMP_SCHEDULE",
              "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_DYNAMIC")
_SWITCHES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
             "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "CUDA_LAUNCH_BLOCKING",
             "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "LD_PRELOAD",
             "MALLOC_ARENA_MAX", "NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS",
         "SLURM_CPUS_PER_TASK")

_MISSING = "not installed"
_TIMEOUT_S = 10
"""Seconds that a program asked about the machine may take."""


def environment_card() -> dict[str, Any]:
    """Return the environment card: plain values, ready for JSON.

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
    gpus, driver = gpu_devices.visible(), gpu_devices.driver()
    allowed = process_limits.allowed_cores()
    usable = usable_cores()
    return {
        "hostname": socket.gethostname(),
        "os": _system(),
        "cpu": _cpu(),
        "cores": len(allowed),
        "affinity": process_limits.format_core_ranges(allowed),
        "cpu_quota": process_limits.cpu_quota(),
        "effective_cores": int(usable) if usable.is_integer() else usable,
        "memory_bytes": memory_bytes(),
        "memory_limit_bytes": process_limits.memory_limit(),
        "address_space_bytes": process_limits.address_space_limit(),
        "gpus": [gpu.name for gpu in gpus],
        "gpu_driver": driver,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        **({"commit_unknown": unknown} if unknown else {}),
        "threads": _set(_THREADING),
        "binding": _set(process_limits.BINDING_VARIABLES),
        "switches": _set(_SWITCHES),
        "container": _container(),
        "slurm": _set(SLURM),
        "beside": 0,
    }


def usable_cores() -> float:
    """Return how many CPU cores ranks of this process can keep busy.

    They are the cores that it may use, as far as OpenMP's binding lets ranks onto them, or the CPU
    quota of its control groups if that is less, for instance 0.5.
    """
    cores = len(process_limits.openmp_bound_cores(process_limits.allowed_cores(), os.environ))
    quota = process_limits.cpu_quota()
    return float(cores) if quota is None else min(float(cores), quota)


def cores() -> int:
    """Return how many ranks can each have a core of their own, at least 1."""
    return max(1, int(usable_cores()))


def memory_bytes() -> int:
    """Return the machine's main memory, or the limit of the control groups if that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = process_limits.memory_limit()
    return there if limit is None else min(there, limit)


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that importable packages come from, by package."""
    return {module: _version(_distribution(module)) for module in modules}


def torch_numeric_settings() -> dict[str, bool | str]:
    """Return the switches of torch on which the last bits of a result depend, in this process.

    Keys: ``deterministic_algorithms``, ``cudnn_deterministic``, ``cudnn_benchmark`` (which may
    choose another convolution in every process), ``matmul_precision`` (of float32; "highest"
    means without TF32), ``convolution_tf32`` and, where set, ``CUBLAS_WORKSPACE_CONFIG``. Once the
    process uses CUDA also ``gpu``, the name of its device, and the versions ``cuda``, ``cudnn``
    and ``nccl``, as far as there are any.
    """
    import torch

    cudnn = torch.backends.cudnn
    found: dict[str, bool | str] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "convolution_tf32": cudnn.allow_tf32,
    }
    if workspace := os.environ.get("CUBLAS_WORKSPACE_CONFIG"):
        found["CUBLAS_WORKSPACE_CONFIG"] = workspace
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        if cudnn.is_available():  # type: ignore[no-untyped-call]
            found["cudnn"] = str(cudnn.version())  # type: ignore[no-untyped-call]
        if torch.distributed.is_nccl_available():
            version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            found["nccl"] = ".".join(map(str, version))
    return found


def git_output(folder: Path, *arguments: str, remedy: str = "",
               timeout: float | None = None) -> bytes:
    """Return what git writes.

    Args:
        folder: Where to run it.
        arguments: Its subcommand and options.
        remedy: What the user can do if it refuses.
        timeout: Seconds that it may take; None for any time.

    Raises:
        UserError: git is missing, refuses, or takes too long.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=git_environment(),
                              capture_output=True, check=False, timeout=timeout)
    except FileNotFoundError as error:
        raise UserError("git is not installed; install it") from error
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}; repair its installation") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} took more than {timeout:g} s in {folder}; "
                        "see why by running it there") from error
    if done.returncode:
        why = _git_reason(done.stderr.decode(errors="replace"))
        raise UserError(f"git {arguments[0]}: {why}" + (f"; {remedy}" if remedy else ""))
    return done.stdout


def git_text(folder: Path, *arguments: str, timeout: float | None = None) -> str:
    """Return what git writes, as text without the last line break; see ``git_output``."""
    return git_output(folder, *arguments, timeout=timeout).decode(errors="replace").rstrip("\n")


def _git_reason(complaint: str) -> str:
    """Return why git refused in a line, with the command it proposes against dubious ownership."""
    lines = [line.strip() for line in complaint.splitlines()]
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    proposed = [line for line in lines if line.startswith("git config ")]
    if fatal and proposed:
        return f"{fatal[0]}; to trust it: {proposed[0]}"
    return last_line(complaint)


def git_environment() -> dict[str, str]:
    """Return this process's variables without GIT_DIR and others that a git hook sets."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


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
    """Return the checkout's commit, whether tracked files differ, and why either is unknown."""
    top = Path(__file__).resolve().parents[2]
    # An environment inside somebody else's repository is not a checkout of ours.
    if not (top / ".git").exists():
        return None, None, "installed outside a git checkout"
    commit = None
    try:
        commit = git_text(top, "rev-parse", "HEAD", timeout=_TIMEOUT_S)
        changed = git_text(top, "status", "--porcelain", "--untracked-files=no",
                           timeout=_TIMEOUT_S)
    except UserError as error:
        return commit, None, str(error)
    return commit, bool(changed), ""


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    name = find_in_file(r'^PRETTY_NAME="?(.+?)"?$', Path("/etc/os-release"))
    return f"{name}, {kernel}" if name else kernel


def _cpu() -> str:
    model = find_in_file(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo"))
    return f"{model} ({platform.machine()})" if model else platform.machine()


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if image:
        return f"apptainer {Path(image).name}"
    return (read_text(Path("/run/systemd/container")) or os.environ.get("container")  # noqa: SIM112
            or None)
