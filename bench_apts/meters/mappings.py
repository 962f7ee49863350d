"""Memory that ranks share: through it bytes pass by every socket and every hook.

Linux lists what a process has mapped (proc_pid_maps(5)): files of /dev/shm, memory without a
name, and files on disk alike. What several ranks have mapped and one may write can carry bytes.
A rank may share memory with helpers of its own, such as those that load data.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAPPING = re.compile(
    rb"^(\w+)-(\w+) .(.).s \w+ (\S+) (\d+) +(/.*?)( \(deleted\))?$", re.MULTILINE)
"""A shared mapping of something with a path, which an ``anon_inode:[...]`` has not."""

_SEMAPHORE = "/dev/shm/sem."
_FLAGS_END = 40
"""Bytes of a line by which two addresses and the flags ``rw-s`` have ended."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_NAMED = 3
"""Most segments that a line names."""


Segment = tuple[str, int]
"""What is mapped: of memory device and inode, as it may go by several names or none; of a file on
disk its path and 0, as disks use inodes again; of one without a path any more, ``_DELETED``."""

_DELETED = "deleted, "


class Shared(NamedTuple):
    """What one rank maps, each with a name, and what of that it may write."""

    mapped: dict[Segment, str]
    writable: set[Segment]


class Mappings:
    """Follows the shared mappings of this process from now on.

    What is mapped and unmapped between two calls of ``read`` is missed, and so is what takes the
    place of as much other memory.
    """

    def __init__(self) -> None:
        self._now = shared_mappings()
        self._before = self._now.writable
        self._pages = _pages()
        self._pauses = 0
        self.seen = Shared({}, set())

    def read(self) -> None:
        """Takes down what is mapped now; what could be written from the beginning is not.

        To list all takes milliseconds, and is done only if the process's memory has another size.
        """
        pages = _pages()
        if pages != self._pages:
            self._pages, self._now = pages, shared_mappings()
        self._pauses += 1
        for found, name in self._now.mapped.items():
            # The inode of a deleted file is the same file's only while both ranks pause.
            kept = (f"{found[0]}, pause {self._pauses}" if found[0].startswith(_DELETED)
                    else found[0], found[1])
            self.seen.mapped[kept] = name
            if found in self._now.writable and found not in self._before:
                self.seen.writable.add(kept)


def _pages() -> bytes:
    """Return how many pages the process has mapped, as the kernel writes it."""
    return Path("/proc/self/statm").read_bytes().partition(b" ")[0]


def shared_mappings() -> Shared:
    """Returns what this process maps by ``MAP_SHARED``, and what of that it may write.

    Devices are left out, and semaphores, a page each: ``multiprocessing`` gives ranks many.
    """
    found = Shared({}, set())
    shared = b"\n".join(line for line in Path("/proc/self/maps").read_bytes().splitlines()
                        if b"s " in line[:_FLAGS_END])
    for start, end, writable, device, inode, name, deleted in _MAPPING.findall(shared):
        path = os.fsdecode(name)
        if path.startswith(_SEMAPHORE) and int(end, 16) - int(start, 16) <= _PAGE:
            continue
        if not deleted and _is_device(path):  # memory without a name is of /dev/zero (deleted)
            continue
        mapped = segment(path, device.decode(), int(inode), bool(deleted))
        found.mapped[mapped] = path
        if writable == b"w":
            found.writable.add(mapped)
    return found


def is_memory(path: str) -> bool:
    """Say whether the kernel gives such a path to memory, not to a file on disk."""
    return path.startswith(("/dev/", "/memfd:", "/SYSV"))


def segment(path: str, device: str, inode: int, deleted: bool) -> Segment:
    """Return what all ranks call the same memory or file."""
    if is_memory(path):
        return device, inode
    return (f"{_DELETED}{device}", inode) if deleted else (path, 0)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def complaints(ranks: Sequence[Shared]) -> list[str]:
    """Returns a line for each set of ranks that share memory which one of them may write.

    Args:
        ranks: What each rank has mapped, by rank.
    """
    sharing: dict[tuple[int, ...], list[str]] = {}
    for segment in sorted(set().union(*(shared.writable for shared in ranks))):
        members = tuple(rank for rank, shared in enumerate(ranks) if segment in shared.mapped)
        if len(members) > 1:
            sharing.setdefault(members, []).append(ranks[members[0]].mapped[segment])
    return [f"ranks {', '.join(map(str, members))} share memory: {some(paths)}: bytes may have "
            "passed behind the meter's back" for members, paths in sharing.items()]


def some(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
