"""Ways between ranks that no hook and no counter of TCP sees: files, pipes, sockets, memory.

Each rank collects what it may have sent to and received from: by the interpreter's audit events
what Python code opened, however briefly; by the kernel (``procfs``) what the process and its
children hold open, or share, where training pauses. A channel is what one rank may send to and
another one on the same machine receives from. A file that only its writer reads does not count.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from bench_apts.meters import procfs
from bench_apts.meters.procfs import SharedMappings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_NAMES = 4096
"""Most names of a kind that are kept of one part of a trial: there may be a file for each step."""

_PROCESS_PATH = re.compile(r"/proc/(\d+)/(?:task/\d+/)?(?:fd|mem|map_files|root|cwd)(?:/|$)")
"""A path by which one process reaches into another; group 1 is its number."""

_MIN_BYTES = 1000
"""A rank that reads or writes less in all of training has no part in a file."""

_EVALUATION_BYTES = 10_000
"""What the harness itself reads and writes in an evaluation, for its records, at most."""

_STORE_BYTES, _STORE_BYTES_PER_S, _STORE_BYTES_PER_PEER = 16_384, 8_192, 1_024
"""What the store may carry in training. A step needs none; a new process group less than 400
bytes for each of its ranks, and agreeing on an early stop 5 kB a second."""

_UNBILLED = ("setup", "checkpoint")
"""Parts of a trial in which files and the store are everybody's."""

_CACHE = re.compile(r"/(__pycache__|torchinductor_[^/]*|\.triton|torch_extensions)/")
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
"""Code that one rank compiles and all load."""

_WRITER = "_open_zipfile_writer"
"""What ``torch.save`` opens a file by, in ``torch.serialization``."""

_MAP_ANYHOW, _MAP_WRITABLE = 0, 2
"""``access`` of ``mmap.mmap``: what ``prot`` says, which the event does not; and writable."""

_T = TypeVar("_T")


class SeenChannels(NamedTuple):
    """What one rank may have sent to and received from, by name; and where names mean the same."""

    sent: set[str]
    received: set[str]
    place: str
    store_bytes: int
    store_allowed: int


class HiddenChannels:
    """Follows this process from now on. Nothing here raises into a training.

    Args:
        store_ports: Ports of the store, whose bytes are counted here.

    Attributes:
        shared: The memory that this process shares.
        unread: What could not be looked at, and why.
    """

    def __init__(self, store_ports: frozenset[int]) -> None:
        self.unread: set[str] = set()
        self._store_ports = store_ports
        self._mappings = procfs.Mappings()
        self.shared = self._mappings.seen
        self._events = AuditEvents()
        self._sent: set[str] = set()
        self._received: set[str] = set()
        self._written: set[str] = set()
        self._read: set[str] = set()
        self._own: set[str] = set()  # sockets
        self._inherited: set[str] = set()
        self._store: dict[str, int] = {}
        self._store_bytes = self._store_allowed = 0
        self._bytes_read = self._bytes_written = 0
        self._pauses = 0  # of which all ranks have made as many
        self._try("descriptors", self._inherit)
        self._begin(0)

    def _try(self, what: str, look: Callable[..., _T], *arguments: Any) -> _T | None:
        """Return what ``look`` finds; None if it cannot, which is noted."""
        try:
            return look(*arguments)
        except Exception as error:
            self.unread.add(f"{what} ({type(error).__name__}: {error})")
            return None

    def _inherit(self) -> None:
        """Note what all ranks hold from the process that forked them, or from the rendezvous."""
        self._inherited |= {file.name for file in procfs.open_files(os.getpid())}
        self._look_at_sockets(procfs.descriptors())
        self._inherited |= self._own

    def _begin(self, peers: int) -> None:
        """Begin a part of the trial; what was read for the audit itself belongs to none."""
        self._since, self._peers = time.monotonic(), peers
        self._store_before = sum(self._store.values())
        self._events.clear()
        self._transferred = self._try("read and written", procfs.transferred_bytes)

    def look(self, part: str, predicted: int, peers: int, listed: Mapping[int, str]) -> None:
        """Collect what has happened since the last call, while all ranks pause.

        Args:
            part: The part of the trial that ends here.
            predicted: Bytes that collectives sent in it.
            peers: Sum of the sizes of all process groups so far.
            listed: The descriptors of this process.
        """
        now = self._try("read and written", procfs.transferred_bytes)
        events = self._events
        self._pauses += 1
        self._received |= events.bound
        self._try("sockets", self._look_at_sockets, listed)
        self._try("descriptors", self._look_at_files, listed)
        self._try("mappings", self._mappings.read)
        if part not in _UNBILLED:
            if now and self._transferred:
                ours = _EVALUATION_BYTES if part == "eval" else 0
                self._bytes_read += max(0, now[0] - self._transferred[0] - ours)
                self._bytes_written += max(0, now[1] - self._transferred[1] - ours - predicted)
            self._store_bytes += sum(self._store.values()) - self._store_before
            self._store_allowed += int((time.monotonic() - self._since) * _STORE_BYTES_PER_S
                                       + (peers - self._peers) * _STORE_BYTES_PER_PEER)
            self._sent |= events.called
            for names, more in ((self._written, events.written), (self._read, events.read)):
                if len(names) < _MAX_NAMES:
                    names |= more
            self.shared.mapped.update(events.mapped.mapped)
            self.shared.writable.update(events.mapped.writable)
        self._begin(peers)

    def _look_at_sockets(self, listed: Mapping[int, str]) -> None:
        for name, own in procfs.own_sockets(listed):
            with own:
                self._own.add(name)
                if name not in self._inherited:
                    self._add(procfs.socket_ends(own))
                if procfs.is_tcp(own) and self._store_ports & procfs.ports(own):
                    counted = procfs.tcp_bytes(own)
                    self._store[name] = counted.sent + counted.received

    def _look_at_files(self, listed: Mapping[int, str]) -> None:
        children = procfs.child_processes()
        every = {os.getpid(): listed} | dict.fromkeys(child.pid for child in children)
        for process, known in every.items():
            self._received.add(f"/proc/{process}")
            for file in self._try("descriptors", procfs.open_files, process, known) or ():
                if file.empty or file.name in self._inherited:
                    continue
                name = f"{file.name} (pause {self._pauses})" if file.nameless else file.name
                if file.writable:
                    (self._written if file.regular else self._sent).add(name)
                if file.readable:
                    (self._read if file.regular else self._received).add(name)
        for child in children:
            self._add(self._try("sockets of children", procfs.ends_of_child, child, self._own)
                      or (set(), set()))

    def _add(self, ends: tuple[set[str], set[str]]) -> None:
        self._sent |= ends[0]
        self._received |= ends[1]

    def seen(self) -> SeenChannels | None:
        """Return what this rank may have sent to and received from; None if unknown."""
        return self._try("names", self._seen)

    def _seen(self) -> SeenChannels:
        sent, received = set(self._sent), set(self._received)
        if self._bytes_written >= _MIN_BYTES or not self._transferred:
            sent |= _files(self._written)
        if self._bytes_read >= _MIN_BYTES or not self._transferred:
            received |= _files(self._read)
        for name in self._written | self._read:
            process = _PROCESS_PATH.match(name)
            if process:
                sent.add(f"/proc/{process[1]}")
        return SeenChannels(sent - {""}, received - {""}, _place(), self._store_bytes,
                    self._store_allowed + _STORE_BYTES)


def _files(names: set[str]) -> set[str]:
    """Return the files by their real paths, which are the same on all ranks, without caches."""
    caches = tuple(f"{os.environ[name]}/" for name in _CACHES if os.environ.get(name))
    paths = {os.path.realpath(name) for name in names if procfs.is_ordinary(name)}
    return {path for path in paths if not (_CACHE.search(path) or path.startswith(caches))}


def _place() -> str:
    """Return where a path or number of a process means the same: the machine, or a container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return " ".join([boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid"))])


class AuditEvents:
    """Collect what Python code of this process opens, connects to and maps from now on.

    Libraries in C raise no events (``torch.save`` is made to). The hook stays until the process
    ends; it costs a dictionary look-up an event, of which a training step has a few.

    Attributes:
        written, read: Absolute paths that were opened for it.
        called, bound: Names of addresses that sockets sent to and were bound to.
        mapped: Files that were mapped.
    """

    def __init__(self) -> None:
        self.clear()
        _audit_torch_save()
        kinds: dict[str, Callable[..., None]] = {
            "open": self._open, "os.rename": self._rename, "os.link": self._rename,
            "socket.bind": self._bind, "socket.connect": self._call,
            "socket.sendto": self._call, "socket.sendmsg": self._call,
            "mmap.__new__": self._map}

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            kind = kinds.get(event)
            if kind is not None:
                try:
                    kind(*arguments)
                except Exception:  # it would end what the event is about
                    return

        sys.addaudithook(hook)

    def clear(self) -> None:
        """Forget all that was collected."""
        self.written: set[str] = set()
        self.read: set[str] = set()
        self.called: set[str] = set()
        self.bound: set[str] = set()
        self.mapped = SharedMappings({}, set())

    def _open(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        name = os.path.abspath(os.fsdecode(path))
        access = flags & os.O_ACCMODE
        if access != os.O_RDONLY:
            _add(self.written, name)
        if access != os.O_WRONLY and _has_content(name):
            _add(self.read, name)

    def _rename(self, source: Any, target: Any, *folders: int) -> None:
        _add(self.written, os.path.abspath(os.fsdecode(target)))

    def _bind(self, own: Any, place: Any) -> None:
        _add(self.bound, procfs.socket_address(own.family, own.type, place))

    def _call(self, own: Any, place: Any) -> None:
        _add(self.called, procfs.socket_address(own.family, own.type, place))

    def _map(self, number: int, length: int, access: int, offset: int) -> None:
        if number < 0 or access not in (_MAP_ANYHOW, _MAP_WRITABLE):
            return
        name = os.readlink(f"/proc/self/fd/{number}")
        # What is in memory was made to be shared; another file may be mapped as a private copy.
        found = os.fstat(number)
        path = name.removesuffix(" (deleted)")
        if procfs.is_memory(path) or (access == _MAP_WRITABLE and found.st_nlink):
            device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
            if len(self.mapped.writable) < _MAX_NAMES:
                mapped = procfs.segment(path, device, found.st_ino, found.st_nlink == 0)
                self.mapped.mapped[mapped] = path
                self.mapped.writable.add(mapped)


def _add(names: set[str], name: str) -> None:
    if len(names) < _MAX_NAMES:
        names.add(name)


def _has_content(path: str) -> bool:
    """Say whether something can be read there: files that lock are empty."""
    if _PROCESS_PATH.match(path):
        return True
    found = os.stat(path)
    return stat.S_ISFIFO(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_size > 0)


def _audit_torch_save() -> None:
    """Make ``torch.save`` raise the event of ``open``, as ``torch.load`` does."""
    from torch import serialization

    writer = getattr(serialization, _WRITER, None)
    if writer is None:
        return

    def audit_and_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, os.PathLike)):
            sys.audit("open", os.fspath(file), "wb", os.O_WRONLY)
        return writer(file, *args, **kwargs)

    setattr(serialization, _WRITER, audit_and_open)
