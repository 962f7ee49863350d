"""Limits below what the machine has: control groups (v1 and v2) and the address space."""

from __future__ import annotations

import re
import resource
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def address_space() -> int | None:
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
