"""What the kernel says of this process: open files, sockets, bytes, shared memory (proc(5))."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psutil

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_ACCESS = re.compile(rb"^flags:\s+(\d+)$", re.MULTILINE)
# struct tcp_info of linux/tcp.h; since Linux 4.19 it is long enough.
_RECEIVED, _NOTSENT, _SENT = (struct.Struct(layout) for layout in ("=128xQ", "=144xI", "=200xQQ"))
_TCP_INFO_BYTES, _LISTEN = 216, 10
_MOST_BYTES = 1 << 16
_USERSOCK = 2
"""The one protocol of netlink by which processes talk to each other, not to the kernel."""


class OpenFile(NamedTuple):
    """A pipe, FIFO or regular file that a process holds open, and what it may do with it."""

    name: str
    nameless: bool
    regular: bool
    empty: bool
    readable: bool
    writable: bool


def transferred_bytes() -> tuple[int, int]:
    """Return the bytes that this process's ``read`` and ``write`` calls moved so far.

    They count files, pipes and sockets alike; ``send`` and ``recv``, and what is mapped, are not
    among them. Children count once they have been waited for.

    Raises:
        OSError: The kernel does not say.
    """
    lines = dict(line.split(b": ") for line in read_short("/proc/self/io").splitlines())
    return int(lines[b"rchar"]), int(lines[b"wchar"])


def read_short(path: str) -> bytes:
    """Return a short file of the kernel's; it costs a fifth of what a file object would."""
    number = os.open(path, os.O_RDONLY)
    try:
        return os.read(number, _MOST_BYTES)
    finally:
        os.close(number)


def child_processes() -> list[psutil.Process]:
    """Return the children of this process and their children; fast where it has none."""
    try:
        os.waitid(os.P_ALL, 0, os.WNOHANG | os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return []
    import psutil  # it is not loaded for nothing

    return list(psutil.Process().children(recursive=True))


def descriptors(process: int | str = "self") -> dict[int, str]:
    """Return what the descriptors of a process refer to, by number; nothing once it has ended.

    Raises:
        OSError: The kernel does not show them.
    """
    found = {}
    try:
        numbers = os.listdir(f"/proc/{process}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    for number in numbers:
        with suppress(OSError):  # closed meanwhile
            found[int(number)] = os.readlink(f"/proc/{process}/fd/{number}")
    return found


def open_files(process: int, listed: Mapping[int, str] | None = None) -> list[OpenFile]:
    """Return the pipes, FIFOs and regular files of a process.

    A file without a path any more is named by its inode, a number that the next file may get
    once it is closed; another one by its path.

    Args:
        process: Its number.
        listed: Its ``descriptors`` of now, if they are known.

    Raises:
        OSError: The kernel does not show the process's files.
    """
    found = []
    for number, name in (descriptors(process) if listed is None else listed).items():
        with suppress(OSError):  # closed meanwhile
            if name.startswith("pipe:"):
                found.append(OpenFile(name, False, False, False, True, True))
            elif name.startswith("/") and is_ordinary(name):
                status = os.stat(f"/proc/{process}/fd/{number}")
                regular = stat.S_ISREG(status.st_mode)
                if regular or stat.S_ISFIFO(status.st_mode):
                    if not status.st_nlink:
                        name = f"{name}, inode {status.st_ino} of device {status.st_dev}"
                    access = _access(process, number)
                    found.append(OpenFile(
                        name, not status.st_nlink, regular, regular and not status.st_size,
                        access != os.O_WRONLY, access != os.O_RDONLY))
    return found


def _access(process: int, number: int) -> int:
    """Return how a descriptor was opened: ``O_RDONLY``, ``O_WRONLY`` or ``O_RDWR``."""
    if process == os.getpid():
        return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    flags = _ACCESS.search(read_short(f"/proc/{process}/fdinfo/{number}"))
    return int(flags[1], 8) & os.O_ACCMODE if flags else os.O_RDWR


def is_ordinary(path: str) -> bool:
    """Say whether a path is neither one of the kernel's own nor that of a device."""
    return not path.startswith(("/proc/", "/sys/", "/dev/")) or path.startswith("/dev/shm/")


def socket_address(family: int, kind: int, place: Any) -> str:
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


def own_sockets(listed: Mapping[int, str]) -> Iterator[tuple[str, socket.socket]]:
    """Yield duplicates of this process's open sockets, each with a name that is its inode.

    Args:
        listed: The ``descriptors`` of this process.
    """
    for number, inode in listed.items():
        if inode.startswith("socket:"):
            try:
                own = socket.socket(fileno=os.dup(number))
            except OSError:  # closed meanwhile
                continue
            yield inode, own


def ports(own: socket.socket) -> frozenset[int]:
    """Return the ports of both ends of a TCP or UDP socket."""
    found = {own.getsockname()[1]}
    with suppress(OSError):  # the other side is gone
        found.add(own.getpeername()[1])
    return frozenset(found)


def is_tcp(own: socket.socket) -> bool:
    """Say whether the kernel counts the bytes of a socket."""
    return (own.family in _INTERNET and own.type == socket.SOCK_STREAM
            and own.proto in (0, socket.IPPROTO_TCP))


class TcpBytes(NamedTuple):
    """What the kernel counts of a TCP socket; what is written but not on its way yet is sent."""

    sent: int
    received: int
    listens: bool


def tcp_bytes(own: socket.socket) -> TcpBytes:
    """Return the bytes of a TCP socket, retransmissions apart.

    Raises:
        OSError: The kernel does not count them; Linux does since 4.19.
    """
    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _TCP_INFO_BYTES:
        raise OSError("this kernel does not count a socket's bytes (Linux 4.19 does)")
    sent, again = _SENT.unpack_from(info)
    return TcpBytes(sent - again + _NOTSENT.unpack_from(info)[0],
                    _RECEIVED.unpack_from(info)[0], info[0] == _LISTEN)


def socket_ends(own: socket.socket) -> tuple[set[str], set[str]]:
    """Return by which names a socket may send and receive.

    TCP connections have none: their bytes are counted.
    """
    if is_tcp(own):
        listens = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        here = {socket_address(own.family, own.type, own.getsockname())}
        return set(), here if listens else set()
    if own.family == socket.AF_UNIX or (own.family in _INTERNET
                                        and own.proto in (0, socket.IPPROTO_UDP)):
        there = set()
        with suppress(OSError):  # it has no other end
            there.add(socket_address(own.family, own.type, own.getpeername()))
        return there, {socket_address(own.family, own.type, own.getsockname())}
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
                    there.add(socket_address(found.family, found.type, found.raddr))
                    here.add(socket_address(found.family, found.type, found.laddr))
    return there, here


_MAPPING = re.compile(
    rb"^(\w+)-(\w+) .(.).s \w+ (\S+) (\d+) +(/.*?)( \(deleted\))?$", re.MULTILINE)
"""A shared mapping of something with a path, which an ``anon_inode:[...]`` has not."""

_SEMAPHORE = "/dev/shm/sem."
_FLAGS_END = 40
"""Bytes of a line by which two addresses and the flags ``rw-s`` have ended."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_DELETED = "deleted, "

Segment = tuple[str, int]
"""What is mapped: of memory device and inode, as it may go by several names or none; of a file on
disk its path and 0, as disks use inodes again; of one without a path any more, ``_DELETED``."""


class SharedMappings(NamedTuple):
    """What one rank maps, each with a name, and what of that it may write."""

    mapped: dict[Segment, str]
    writable: set[Segment]


class Mappings:
    """Follows the shared mappings of this process from now on (proc_pid_maps(5)).

    Files of /dev/shm, memory without a name, and files on disk alike: what several ranks have
    mapped and one may write can carry bytes past every socket and hook. A rank may share memory
    with helpers of its own, such as those that load data.

    What is mapped and unmapped between two calls of ``read`` is missed, and so is what takes the
    place of as much other memory.
    """

    def __init__(self) -> None:
        self._now = shared_mappings()
        self._before = self._now.writable
        self._pages = _unheaped_pages()
        self._pauses = 0
        self.seen = SharedMappings({}, set())

    def read(self) -> None:
        """Note what is mapped now, and what of that may be written since the beginning.

        To list all takes milliseconds: it is done only where their size has changed.
        """
        pages = _unheaped_pages()
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


def _unheaped_pages() -> int:
    """Return how many pages are mapped, without those that are private and writable.

    Data and stacks, of which the kernel keeps count, change all the time and are never shared.
    """
    size, _, _, _, _, data, _ = read_short("/proc/self/statm").split()
    return int(size) - int(data)


def shared_mappings() -> SharedMappings:
    """Return what this process maps by ``MAP_SHARED``, and what of that it may write.

    Devices are left out, and semaphores, a page each: ``multiprocessing`` gives ranks many.
    """
    found = SharedMappings({}, set())
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
