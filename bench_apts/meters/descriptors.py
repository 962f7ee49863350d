"""What the kernel says about open files, sockets and transferred bytes of a process (proc(5))."""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_ACCESS = re.compile(r"^flags:\s+(\d+)$", re.MULTILINE)
_USERSOCK = 2
"""The one protocol of netlink by which processes talk to each other, not to the kernel."""


class Open(NamedTuple):
    """A pipe, FIFO or regular file that a process holds open, and what it may do with it."""

    name: str
    nameless: bool
    regular: bool
    empty: bool
    readable: bool
    writable: bool


def transferred() -> tuple[int, int]:
    """Return the bytes that this process's ``read`` and ``write`` calls moved so far.

    They count files, pipes and sockets alike; ``send`` and ``recv``, and what is mapped, are not
    among them. Children count once they have been waited for.

    Raises:
        OSError: The kernel does not say.
    """
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def children() -> list[psutil.Process]:
    """Return the children of this process and their children; quick where there are none."""
    try:
        os.waitid(os.P_ALL, 0, os.WNOHANG | os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return []
    import psutil  # it is not loaded for nothing

    return list(psutil.Process().children(recursive=True))


def opened(process: int) -> list[Open]:
    """Return the pipes, FIFOs and regular files of a process.

    A file without a path any more is named by its inode, a number that the next file may get
    once it is closed; another one by its path.

    Raises:
        OSError: The kernel does not show the process's files.
    """
    return list(_opened(process))


def _opened(process: int) -> Iterator[Open]:
    for number in _numbers(process):
        with suppress(OSError):  # closed meanwhile
            path = f"/proc/{process}/fd/{number}"
            name = os.readlink(path)
            if name.startswith("pipe:"):
                yield Open(name, False, False, False, True, True)
            elif name.startswith("/") and is_ordinary(name):
                found = os.stat(path)
                regular = stat.S_ISREG(found.st_mode)
                if regular or stat.S_ISFIFO(found.st_mode):
                    if not found.st_nlink:
                        name = f"{name}, inode {found.st_ino} of device {found.st_dev}"
                    access = _access(process, number)
                    yield Open(name, not found.st_nlink, regular, regular and not found.st_size,
                               access != os.O_WRONLY, access != os.O_RDONLY)


def _numbers(process: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{process}/fd")
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []


def _access(process: int, number: str) -> int:
    """Return how a descriptor was opened: ``O_RDONLY``, ``O_WRONLY`` or ``O_RDWR``."""
    flags = _ACCESS.search(Path(f"/proc/{process}/fdinfo/{number}").read_text())
    return int(flags[1], 8) & os.O_ACCMODE if flags else os.O_RDWR


def is_ordinary(path: str) -> bool:
    """Say whether a path is none of the kernel's own or of a device."""
    return not path.startswith(("/proc/", "/sys/", "/dev/")) or path.startswith("/dev/shm/")


def address(family: int, kind: int, place: Any) -> str:
    """Return a name for a socket's address that is the same at both ends; empty for none.

    Args:
        family: Of the socket, for instance ``socket.AF_UNIX``.
        kind: For instance ``socket.SOCK_STREAM``.
        place: The address as Python gives it.
    """
    if family == socket.AF_UNIX:
        if not place:
            return ""
        path = os.fsdecode(place)
        return f"the socket {'@' + path[1:] if path[0] == chr(0) else os.path.realpath(path)}"
    if family not in _INTERNET or not place or not place[1]:
        return ""
    return f"{'TCP' if kind == socket.SOCK_STREAM else 'UDP'} port {place[1]}"


def is_tcp(own: socket.socket) -> bool:
    """Say whether the kernel counts the bytes of a socket."""
    return (own.family in _INTERNET and own.type == socket.SOCK_STREAM
            and own.proto in (0, socket.IPPROTO_TCP))


def ends(own: socket.socket) -> tuple[set[str], set[str]]:
    """Return by which names a socket may send and receive.

    TCP connections have none: their bytes are counted.
    """
    if is_tcp(own):
        listens = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return set(), {address(own.family, own.type, own.getsockname())} if listens else set()
    if own.family == socket.AF_UNIX or (own.family in _INTERNET
                                        and own.proto in (0, socket.IPPROTO_UDP)):
        there = set()
        with suppress(OSError):  # it has no other end
            there.add(address(own.family, own.type, own.getpeername()))
        return there, {address(own.family, own.type, own.getsockname())}
    if own.family == socket.AF_NETLINK and own.proto != _USERSOCK:
        return set(), set()
    name = f"sockets of family {int(own.family)}"
    return {name}, {name}


def ends_of_child(child: psutil.Process, inherited: set[str]) -> tuple[set[str], set[str]]:
    """Return by which names the sockets of a child may send and receive.

    Args:
        child: The process.
        inherited: Its parent's sockets, for instance ``{"socket:[123]"}``, which are left out.
    """
    import psutil

    there, here = set(), set()
    with suppress(psutil.NoSuchProcess):
        for found in child.net_connections("all"):
            with suppress(OSError):  # closed meanwhile
                if os.readlink(f"/proc/{child.pid}/fd/{found.fd}") not in inherited:
                    there.add(address(found.family, found.type, found.raddr))
                    here.add(address(found.family, found.type, found.laddr))
    return there, here
