"""The cores that this process may use, and those that OpenMP binds its threads to.

With binding on, libgomp binds a process's first thread to its first place as soon as it is loaded,
and further threads to the following ones. Every rank does the same, so all of them share as many
places as one has threads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables that bind threads to cores."""

_NAMED = {"threads": "", "cores": "thread_siblings_list", "sockets": "core_siblings_list",
          "ll_caches": "core_siblings_list", "numa_domains": "core_siblings_list"}
"""Names of places, and the file of a core's topology that lists the place it belongs to."""

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
_PLACE = re.compile(r"\{([^{}]*)\}(?::(\d+)(?::(-?\d+))?)?")
_MOST = 4096
"""Places or cores that are counted; no machine has more."""


def affinity() -> frozenset[int]:
    """Return the numbers of the cores that this process may use."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return frozenset(range(os.cpu_count() or 1))


def bound(cores: Collection[int], environ: Mapping[str, str]) -> frozenset[int]:
    """Return those of ``cores`` that ranks can run on under OpenMP's binding.

    Args:
        cores: Numbers of cores.
        environ: Environment variables of the ranks. Without OMP_NUM_THREADS they have one thread.
    """
    every = frozenset(cores)
    places = [place & every for place in _places(every, environ)]
    used = [place for place in places if place][:_threads(environ)]
    return frozenset().union(*used) if used else every


def spans(numbers: Collection[int]) -> str:
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
        for step in range(min(int(length or 1), _MOST)):
            found.append(frozenset(core + step * int(stride or len(place)) for core in place))
    return found


def _interval(text: str) -> list[int]:
    """Read ``start[:length[:stride]]``."""
    parts = re.fullmatch(r"(\d+)(?::(\d+)(?::(-?\d+))?)?", text)
    if not parts:
        return []
    start, length, stride = int(parts[1]), int(parts[2] or 1), int(parts[3] or 1)
    return [start + step * stride for step in range(min(length, _MOST))]


def _gomp(text: str) -> list[frozenset[int]]:
    """Read GOMP_CPU_AFFINITY: ``0 3 1-2 4-15:2``, separated by spaces or commas."""
    found = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if not match:
            return []
        low, step = int(match[1]), int(match[3] or 1)
        high = min(int(match[2] or low), low + _MOST)
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
