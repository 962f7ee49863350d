"""What Python code opens, connects to and maps, however briefly: the interpreter's audit events.

Libraries in C raise none (``torch.save`` is made to). A hook stays until the process ends; it
costs a dictionary look-up an event, of which a training step has a few.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any

from bench_apts.meters import descriptors
from bench_apts.meters.mappings import Shared, is_memory, segment

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 4096
"""Most names of a kind that are kept of one part of a trial: there may be a file for each step."""

OF_A_PROCESS = re.compile(r"/proc/(\d+)/(?:task/\d+/)?(?:fd|mem|map_files|root|cwd)(?:/|$)")
"""A path by which one process reaches into another; group 1 is its number."""

_WRITER = "_open_zipfile_writer"
_MAP_ANYHOW, _MAP_WRITABLE = 0, 2
"""``access`` of ``mmap.mmap``: what ``prot`` says, which the event does not; and writable."""


class Events:
    """Collect the events of this process from now on.

    Attributes:
        written, read: Absolute paths that were opened for it.
        called, bound: Names of addresses that sockets sent to and were bound to.
        mapped: Files that were mapped.
    """

    def __init__(self) -> None:
        self.clear()
        _tell_of_torch_save()
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
        self.mapped = Shared({}, set())

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
        _add(self.bound, descriptors.address(own.family, own.type, place))

    def _call(self, own: Any, place: Any) -> None:
        _add(self.called, descriptors.address(own.family, own.type, place))

    def _map(self, number: int, length: int, access: int, offset: int) -> None:
        if number < 0 or access not in (_MAP_ANYHOW, _MAP_WRITABLE):
            return
        name = os.readlink(f"/proc/self/fd/{number}")
        # What is in memory was made to be shared; another file may be mapped as a private copy.
        found = os.fstat(number)
        path = name.removesuffix(" (deleted)")
        if is_memory(path) or (access == _MAP_WRITABLE and found.st_nlink):
            device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
            if len(self.mapped.writable) < MOST:
                mapped = segment(path, device, found.st_ino, found.st_nlink == 0)
                self.mapped.mapped[mapped] = path
                self.mapped.writable.add(mapped)


def _add(names: set[str], name: str) -> None:
    if len(names) < MOST:
        names.add(name)


def _has_content(path: str) -> bool:
    """Say whether something can be read there: files that lock are empty."""
    if OF_A_PROCESS.match(path):
        return True
    found = os.stat(path)
    return stat.S_ISFIFO(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_size > 0)


def _tell_of_torch_save() -> None:
    """Make ``torch.save`` raise the event of ``open``, as ``torch.load`` does."""
    from torch import serialization

    writer = getattr(serialization, _WRITER, None)
    if writer is None:
        return

    def tell_and_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, os.PathLike)):
            sys.audit("open", os.fspath(file), "wb", os.O_WRONLY)
        return writer(file, *args, **kwargs)

    setattr(serialization, _WRITER, tell_and_open)
