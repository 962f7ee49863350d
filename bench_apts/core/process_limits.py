"""Limits below what the machine has: control groups (v1 and v2) and the address space.

The cores that this process may use, and those that OpenMP binds its threads to.

With binding on, libgomp binds a process's first thread to its first place as soon as it is loaded,
and further threads to the following ones. Every rank does the same, so all of them share as many
places as one has threads.

How many threads OpenMP's environment variable asks for: read here, and nowhere else.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence

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
            words = _read(group / "cpu.max").split()
        else:
            words = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def memory_limit() -> int | None:
    """Return the bytes of memory that all processes here may take together; None if unlimited."""
    found = []
    for version, group in _groups("memory"):
        text = _read(group / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdigit() and int(text) < _UNLIMITED:
            found.append(int(text))
    return min(found, default=None)


def address_space_limit() -> int | None:
    """Return the bytes of address space that each process may take (RLIMIT_AS); None if any."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each group above this process that may limit ``controller``."""
    for line in _read(PROC / "mountinfo").splitlines():
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
    for line in _read(PROC / "cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (controller in controllers.split(",")) if version == 1 else not controllers:
            return path or "/"
    return "/"


def _unescaped(text: str) -> str:
    """Undo the octal codes that mountinfo writes for spaces and backslashes."""
    return re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables that bind threads to cores."""

_NAMED = {"threads": "", "cores": "thread_siblings_list", "sockets": "core_siblings_list",
          "ll_caches": "core_siblings_list", "numa_domains": "core_siblings_list"}
"""Names of places, and the file of a core's topology that lists the place it belongs to."""

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
_PLACE = re.compile(r"\{([^{}]*)\}(?::(\d+)(?::(-?\d+))?)?")
_MAX_THREADS = 4096
"""Places or cores that are counted; no machine has more."""


def allowed_cores() -> frozenset[int]:
    """Return the numbers of the cores that this process may use."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return frozenset(range(os.cpu_count() or 1))


def openmp_bound_cores(cores: Collection[int], environ: Mapping[str, str]) -> frozenset[int]:
    """Return those of ``cores`` that ranks can run on under OpenMP's binding.

    Args:
        cores: Numbers of cores.
        environ: Environment variables of the ranks. Without OMP_NUM_THREADS they have one thread.
    """
    every = frozenset(cores)
    places = [place & every for place in _places(every, environ)]
    used = [place for place in places if place][:_threads(environ)]
    return frozenset().union(*used) if used else every


def format_core_ranges(numbers: Collection[int]) -> str:
    """Write numbers of cores as ``0-3,8``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)


def _threads(environ: Mapping[str, str]) -> int:
    first = environ.get("OMP_NUM_THREADS", "1").split(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def _places(cores: frozenset[int], environ: Mapping[str, str]) -> Sequence[frozenset[int]]:
    """Return the places that threads are bound to in turn; none where nothing is bound."""
    bind = environ.get("OMP_PROC_BIND", "").split(",")[0].strip().lower()
    if bind == "false":
        return []
    if "OMP_PLACES" in environ:
        found = _listed(environ["OMP_PLACES"].strip().lower(), cores)
    elif "GOMP_CPU_AFFINITY" in environ:
        found = _gomp(environ["GOMP_CPU_AFFINITY"])
    else:
        found = _listed("threads", cores) if bind else []
    return found[:1] if bind in ("master", "primary") else found


def _listed(text: str, cores: frozenset[int]) -> list[frozenset[int]]:
    """Read OMP_PLACES; what libgomp would refuse gives no places."""
    named = re.fullmatch(rf"({'|'.join(_NAMED)})(?:\s*\(\s*(\d+)\s*\))?", text)
    if named:
        found = list(dict.fromkeys(_around(core, _NAMED[named[1]]) & cores
                                   for core in sorted(cores)))
        return found[:int(named[2])] if named[2] else found
    bare = text.replace(" ", "")
    if not re.fullmatch(rf"{_PLACE.pattern}(,{_PLACE.pattern})*", bare):
        return []
    found = []
    for inner, length, stride in _PLACE.findall(bare):
        place = [core for part in inner.split(",") for core in _interval(part)]
        for step in range(min(int(length or 1), _MAX_THREADS)):
            found.append(frozenset(core + step * int(stride or len(place)) for core in place))
    return found


def _interval(text: str) -> list[int]:
    """Read ``start[:length[:stride]]``."""
    parts = re.fullmatch(r"(\d+)(?::(\d+)(?::(-?\d+))?)?", text)
    if not parts:
        return []
    start, length, stride = int(parts[1]), int(parts[2] or 1), int(parts[3] or 1)
    return [start + step * stride for step in range(min(length, _MAX_THREADS))]


def _gomp(text: str) -> list[frozenset[int]]:
    """Read GOMP_CPU_AFFINITY: ``0 3 1-2 4-15:2``, separated by spaces or commas."""
    found = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not match:
            return []
        low, step = int(match[1]), int(match[3] or 1)
        high = min(int(match[2] or low), low + _MAX_THREADS)
        if high < low or not step:
            return []
        found += [frozenset([core]) for core in range(low, high + 1, step)]
    return found


def _around(core: int, file: str) -> frozenset[int]:
    """Return the cores of the place that a core belongs to; itself where nothing says."""
    if file:
        try:
            text = Path(_TOPOLOGY.format(core, file)).read_text(encoding="ascii").strip()
        except OSError:
            text = ""
        if places := _gomp(text):
            return frozenset().union(*places)
    return frozenset([core])


THREADS_VARIABLE = "OMP_NUM_THREADS"

_DEFAULT = "1"
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
    text = environ.get(THREADS_VARIABLE, "")
    if not text.strip():
        environ[THREADS_VARIABLE] = text = _DEFAULT
    levels = text.split(",")
    if not all(_NUMBER.fullmatch(level) for level in levels):
        raise UserError(
            f"{THREADS_VARIABLE}='{text}' is not a list of positive numbers of threads; set "
            f"it to one, for instance {THREADS_VARIABLE}=1, or unset it"
        )
    return int(levels[0])
