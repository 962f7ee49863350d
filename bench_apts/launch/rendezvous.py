"""How the agents of all nodes meet for one trial: a store of its own, node ranks as given.

One machine is the case of a single agent. torch's dynamic c10d rendezvous numbers nodes by their
addresses; here node 0 must have rank 0, which writes the records. Its static one leaves an agent
in C++ calls that no signal ends and that notice a lost node after minutes. So this handler uses
the given ranks, and waits in Python.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKEND = "bench-apts"
"""The rendezvous's name in torch's elastic launcher."""

LOOPBACK = "127.0.0.1"

_LOOK_S = 0.05
_WAIT_S = 30.0


class _WatchedStore(PrefixStore):
    """A store whose waits end when ``watch`` raises, or a signal's handler."""

    def __init__(self, prefix: str, store: TCPStore, watch: Callable[[], None]) -> None:
        super().__init__(prefix, store)
        self._watch = watch

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        patience: timedelta = timeout or self.timeout  # type: ignore[attr-defined]
        deadline = time.monotonic() + patience.total_seconds()
        while not self.check(list(keys)):
            self._watch()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(keys)} did not appear in the store")
            time.sleep(_LOOK_S)

    def get(self, key: str) -> bytes:
        self.wait([key])
        return super().get(key)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        self.wait(keys)
        return super().multi_get(list(keys))


@dataclass(frozen=True)
class NodePlace:
    """A node's place in a trial.

    Attributes:
        nodes: How many agents there are.
        rank: Number of this one.
        store: The trial's store, which the ranks use too.
        address: This node's address.
        watch: Called repeatedly while ranks run; raises if they must end.
    """

    nodes: int
    rank: int
    store: TCPStore
    address: str
    watch: Callable[[], None]


class Rendezvous(RendezvousHandler):
    """Joins the agents of one trial.

    Args:
        run_id: Name of the trial.
        place: This node's place in it.
        watch: Called like ``place.watch``.
    """

    def __init__(self, run_id: str, place: NodePlace, watch: Callable[[], None]) -> None:
        self._run_id, self._place = run_id, place
        self._watches = (place.watch, watch)

    def get_backend(self) -> str:
        """Return the rendezvous's name."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether ranks use this store, which node 0 hosts as long as its agent runs."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Return the agent's rank, and the store in which it meets the others."""
        place = self._place
        return RendezvousInfo(
            _WatchedStore("agents", place.store, place.watch), place.rank, place.nodes,
            RendezvousStoreInfo(place.store.host, place.store.port))

    def num_nodes_waiting(self) -> int:
        """Return 0, as nodes never join late; the agent asks each time it has polled its ranks."""
        for watch in self._watches:
            watch()
        return 0

    def is_closed(self) -> bool:
        """Return whether joining is over."""
        return False

    def set_closed(self) -> None:
        """Do nothing: the rendezvous serves one trial."""

    def get_run_id(self) -> str:
        """Return the trial's name."""
        return self._run_id

    def shutdown(self) -> bool:
        """Do nothing: the store ends with its last user."""
        return True


def single_node() -> NodePlace:
    """Return the place of a node that runs all ranks of a trial."""
    return NodePlace(1, 0, host_store(_WAIT_S), LOOPBACK, lambda: None)


def host_store(wait_s: float) -> TCPStore:
    """Open a trial's store on this node, at a port that the system chooses.

    Its own ranks reach it by address: the name ``localhost`` need not resolve.
    """
    return TCPStore(LOOPBACK, 0, None, is_master=True, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def reach_store(host: str, port: int, wait_s: float) -> TCPStore:
    """Connect to a trial's store on node 0."""
    return TCPStore(host, port, None, is_master=False, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def _handler(parameters: RendezvousParameters) -> Any:
    return parameters.config["handler"]


rendezvous_handler_registry.register(BACKEND, _handler)
