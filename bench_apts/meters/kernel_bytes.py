"""What the kernel says that this process's TCP sockets sent, and what the counter predicts."""

from __future__ import annotations

import functools
import socket
import sys
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from bench_apts.core.records import AuditPart
from bench_apts.meters import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench_apts.meters.comm import CollectiveCounter


class KernelBytes:
    """Compares the bytes of this process's sockets with those of its collectives, from now on.

    Make it once the default process group exists.

    Args:
        counter: Predicts the bytes.
        guarded: Calls what it is given; what that raises must not reach the training.

    Attributes:
        store_ports: Ports of the store, whose sockets are left out.
    """

    def __init__(self, counter: CollectiveCounter,
                 guarded: Callable[[Callable[[], object]], None]) -> None:
        self._counter = counter
        self.store_ports = _store_ports()
        self._sockets: dict[str, int] = {}
        self._seen, (self._predicted, _) = self._read(), counter.predicted()
        # Its sockets take their counts with them.
        self._closing = lambda: guarded(self._read)
        _read_before_a_group_closes(self._closing)

    def _read(self, listed: Mapping[int, str] | None = None) -> int:
        """Return the bytes sent so far; a socket that is gone keeps its last count."""
        self._sockets.update(sent_by_socket(self.store_ports, listed))
        return sum(self._sockets.values())

    def close(self) -> None:
        """Read no more when groups are destroyed."""
        _readers.remove(self._closing)

    def since_last(self, listed: Mapping[int, str] | None = None) -> AuditPart:
        """Return what was sent since the last call, and how unsure the prediction is so far.

        Args:
            listed: This process's descriptors of now, if they are known.
        """
        seen, (predicted, unsure) = self._read(listed), self._counter.predicted()
        found = AuditPart(predicted - self._predicted, seen - self._seen, unsure)
        self._seen, self._predicted = seen, predicted
        return found


def obstacle(counter: CollectiveCounter) -> str:
    """Say why the kernel's bytes and the predicted ones cannot be compared; empty if they can."""
    if not counter.counting:
        return "collectives are not counted"
    backend = dist.get_backend()
    if backend != "gloo":
        return f"the bytes of {backend} cannot be predicted"
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} does not count a socket's bytes"
    try:
        with socket.socket() as probe:
            procfs.tcp_bytes(probe)
    except OSError as error:
        return str(error)
    return ""


def sent_by_socket(
    but_ports: frozenset[int] = frozenset(), listed: Mapping[int, str] | None = None
) -> dict[str, int]:
    """Return the bytes that each TCP socket of this process sent, by the socket's name.

    Args:
        but_ports: Sockets with one of these ports at either end are left out.
        listed: This process's descriptors of now, if they are known.
    """
    sent = {}
    for name, own in procfs.own_sockets(procfs.descriptors() if listed is None else listed):
        with own:
            if procfs.is_tcp(own):
                counted = procfs.tcp_bytes(own)
                if not counted.listens and not but_ports & procfs.ports(own):
                    sent[name] = counted.sent
    return sent


def _store_ports() -> frozenset[int]:
    """Return the ports of the store through which the ranks found each other."""
    from torch.distributed import distributed_c10d
    from torch.distributed.distributed_c10d import PrefixStore

    store: Any = distributed_c10d._get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    port = getattr(store, "port", None)
    return frozenset() if port is None else frozenset((int(port),))


_wrapped: list[Any] = []
_readers: list[Callable[[], None]] = []
"""What reads the sockets of this process before a group takes them with it."""


def _read_before_a_group_closes(read: Callable[[], None]) -> None:
    """Have sockets read once more while a process group is being destroyed."""
    from torch.distributed import distributed_c10d as c10d

    if not _wrapped:
        unregister = c10d._unregister_process_group  # type: ignore[attr-defined]

        @functools.wraps(unregister)
        def read_and_unregister(*args: Any, **kwargs: Any) -> None:
            for read in list(_readers):
                read()
            unregister(*args, **kwargs)

        setattr(c10d, unregister.__name__, read_and_unregister)
        _wrapped.append(unregister)
    _readers.append(read)
