"""What the system grants this process: CPU and memory quotas, cores, threads, open files."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError
from bench_apts.core.files import read_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, MutableMapping

PROC = Path("/proc/self")
"""Where ``cgroup`` and ``mountinfo`` of this process are read."""

_UNLIMITED = 2**60
"""Bytes from which on a memory limit is none: v1 writes the largest multiple of a page."""


def cpu_quota() -> float | None:
    """Return the CPU time that all processes here may take together, in cores; None if unlimited.

    The smallest quota from this process's group up to the root of the mounted hierarchy.
    """
    found = []
    for version, group in _groups("cpu"):
        if version == 2:
            words = read_text(group / "cpu.max").split()
        else:
            words = [read_text(group / "cpu.cfs_quota_us"), read_text(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def memory_limit() -> int | None:
    """Return the bytes of memory that all processes here may take together; None if unlimited."""
    found = []
    for version, group in _groups("memory"):
        text = read_text(group / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdigit() and int(text) < _UNLIMITED:
            found.append(int(text))
    return min(found, default=None)


def address_space_limit() -> int | None:
    """Return the bytes of address space that each process may take; None if unlimited."""
    return _soft_limit(resource.RLIMIT_AS)


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each group above this process that may limit ``controller``."""
    for line in read_text(PROC / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        version = {"cgroup": 1, "cgroup2": 2}.get(kind[0])
        if version is None or (version == 1 and controller not in kind[2].split(",")):
            continue
        root, mount = map(_unescaped, fields[3:5])
        # A container may see the host's name of its group, of which only the inside is mounted.
        path = PurePosixPath(_group(version, controller))
        inner = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        if ".." in inner.parts:
            inner = PurePosixPath()
        folder = Path(mount) / inner
        yield version, folder
        for parent in list(folder.parents)[:len(inner.parts)]:
            yield version, parent


def _group(version: int, controller: str) -> str:
    """Return this process's group in one hierarchy."""
    for line in read_text(PROC / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (controller in controllers.split(",")) if version == 1 else not controllers:
            return path or "/"
    return "/"


def _unescaped(text: str) -> str:
    """Undo the octal codes that mountinfo writes for spaces and backslashes."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), text)


BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables that bind threads to cores."""

_PRINT_PLACES = """
import ctypes, sys
gomp = ctypes.CDLL(sys.argv[1])
for place in range(gomp.omp_get_num_places()):
    cores = (ctypes.c_int * gomp.omp_get_place_num_procs(place))()
    gomp.omp_get_place_proc_ids(place, cores)
    print(*cores)
"""


def allowed_cores() -> frozenset[int]:
    """Return the numbers of the cores that this process may use."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return frozenset(range(os.cpu_count() or 1))


def openmp_bound_cores(cores: Collection[int], environ: Mapping[str, str]) -> frozenset[int]:
    """Return those of ``cores`` that ranks can run on under OpenMP's binding.

    libgomp binds a process's first thread to its first place as soon as it is loaded, and further
    threads to the following ones. Every rank does the same, so all of them share as many places as
    one has threads.

    Args:
        cores: Numbers of cores.
        environ: Environment variables of the ranks. Without OMP_NUM_THREADS they have one thread.
    """
    every = frozenset(cores)
    binding = {name: environ[name] for name in BINDING_VARIABLES if name in environ}
    threads = environ.get("OMP_NUM_THREADS", "1").split(",")[0].strip()
    count = max(1, int(threads)) if threads.isdecimal() else 1
    if binding.get("OMP_PROC_BIND", "").lower() in ("master", "primary"):
        count = 1
    places = [place & every for place in _places(tuple(binding.items()))] if binding else []
    used = [place for place in places if place][:count]
    return frozenset().union(*used) if used else every


@lru_cache
def _places(binding: tuple[tuple[str, str], ...]) -> list[frozenset[int]]:
    """Ask torch's own libgomp for the places that it binds threads to; none if it binds nothing.

    In another process, as loading the library binds the thread that loads it.
    """
    torch = Path(find_spec("torch").origin).parent  # type: ignore[union-attr, arg-type]
    bundled = [*(torch / "lib").glob("libgomp*"), *torch.with_name("torch.libs").glob("libgomp*")]
    library = str(bundled[0]) if bundled else "libgomp.so.1"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PRINT_PLACES, library], capture_output=True, text=True,
        env={"PATH": os.environ.get("PATH", ""), **dict(binding)}, check=False)
    return [frozenset(map(int, line.split())) for line in done.stdout.splitlines()]


def format_core_ranges(numbers: Collection[int]) -> str:
    """Write numbers of cores as ``0-3,8``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)


_NUMBER = re.compile(r"\s*\+?0*[1-9]\d{0,6}\s*", re.ASCII)


def openmp_threads(environ: MutableMapping[str, str] = os.environ) -> int:
    """Return how many threads a rank computes with: the first number of ``OMP_NUM_THREADS``.

    OpenMP allows a list such as ``2,1``, with a number for each level of nested parallel regions;
    torch opens regions of the first level only. Unset or blank, the variable is set to 1.

    Args:
        environ: The environment variables.

    Raises:
        UserError: It is not a list of positive numbers (of at most 7 digits).
    """
    text = environ.get("OMP_NUM_THREADS", "")
    if not text.strip():
        environ["OMP_NUM_THREADS"] = text = "1"
    levels = text.split(",")
    if not all(_NUMBER.fullmatch(level) for level in levels):
        raise UserError(f"OMP_NUM_THREADS='{text}' is not a list of positive numbers of threads; "
                        "set it to one, for instance OMP_NUM_THREADS=1, or unset it")
    return int(levels[0])


_GIB = 2**30
_MIN_ADDRESS_SPACE = _GIB
"""Bytes below which not even torch's libraries can be loaded."""

_MIN_RANK_ADDRESS_SPACE = _GIB // 2
"""Bytes that a rank needs beyond what loading the libraries took."""

_FILES, _FILES_PER_RANK = 32, 5
_TASKS, _TASKS_PER_RANK = 4, 6
"""Open files, and processes and threads, of a study: its command's own, and for each rank."""

_STACK_BYTES = 2**16


def require_address_space(loaded: bool = False) -> None:
    """Refuse a limit of the address space with which torch or its ranks cannot run.

    Args:
        loaded: Whether this process has loaded all that a rank will load.

    Raises:
        UserError: The limit is too low.
    """
    import psutil

    limit = address_space_limit()
    least = (psutil.Process().memory_info().vms + _MIN_RANK_ADDRESS_SPACE if loaded
             else _MIN_ADDRESS_SPACE)
    if limit is not None and limit < least:
        raise UserError(f"a process may take {limit / _GIB:.2f} GiB of address space here "
                        f"(ulimit -v), and a study takes {least / _GIB:.1f} GiB or more; raise "
                        "the limit")


def require_resources(ranks: int, threads: int) -> None:
    """Refuse limits under which no trial could start.

    Args:
        ranks: Most ranks of a trial on this machine.
        threads: Threads that each rank computes with.

    Raises:
        UserError: Too few files can be opened, or too few processes and threads be started.
    """
    limit, files = _soft_limit(resource.RLIMIT_NOFILE), _FILES + _FILES_PER_RANK * ranks
    counted = f"{ranks} rank{'s' * (ranks > 1)}"
    if limit is not None and limit < files:
        raise UserError(f"{limit} files can be open at once here (ulimit -n), and {counted} "
                        f"take about {files}; raise the limit")
    tasks = _TASKS + (_TASKS_PER_RANK + threads - 1) * ranks
    if not _can_start_threads(tasks):
        raise UserError(f"{counted} take about {tasks} more processes and threads, and the system "
                        "grants fewer (ulimit -u, or the container's limit of pids); raise the "
                        "limit, or choose fewer --gpus")


def _soft_limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _can_start_threads(count: int) -> bool:
    """Whether so many threads, which count like processes, can run at the same time."""
    release = threading.Event()
    usual = threading.stack_size(_STACK_BYTES)
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        threading.stack_size(usual)
        release.set()
        for thread in started:
            thread.join()
    return True
