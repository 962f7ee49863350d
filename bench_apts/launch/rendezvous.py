"""How the agents of all nodes meet for one trial: a store of its own, node ranks as given.

One machine is the case of a single agent. torch's dynamic c10d rendezvous numbers nodes by their
addresses; here node 0 must have rank 0, which writes the records. Its static one leaves an agent
in C++ calls that no signal ends and that notice a lost node after minutes. So this handler takes
the ranks as given, and waits in Python.
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
"""Name of the rendezvous among those of torch's elastic launcher."""

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
                raise TimeoutError(f"waited in vain for {', '.join(keys)}")
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
        store: The trial's store, of which the ranks make use too.
        address: This node's address.
        watch: Called time and again while ranks run; raises if they are to be ended.
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
        watch: Called like that of ``place``.
    """

    def __init__(self, run_id: str, place: NodePlace, watch: Callable[[], None]) -> None:
        self._run_id, self._place = run_id, place
        self._watches = (place.watch, watch)

    def get_backend(self) -> str:
        """Names the rendezvous."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether ranks use the same store; node 0 hosts it as long as its agent runs."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Tells the agent its rank; it meets the others in the store."""
        place = self._place
        return RendezvousInfo(
            _WatchedStore("agents", place.store, place.watch), place.rank, place.nodes,
            RendezvousStoreInfo(place.store.host, place.store.port))

    def num_nodes_waiting(self) -> int:
        """Is asked by the agent whenever it has looked at its ranks; nodes never come late."""
        for watch in self._watches:
            watch()
        return 0

    def is_closed(self) -> bool:
        """Whether nobody may join any more."""
        return False

    def set_closed(self) -> None:
        """Does nothing: the rendezvous serves one trial."""

    def get_run_id(self) -> str:
        """Names the trial."""
        return self._run_id

    def shutdown(self) -> bool:
        """Does nothing: the store goes with its last user."""
        return True


def single_node() -> NodePlace:
    """Return the place of a node whose ranks are all of a trial's."""
    return NodePlace(1, 0, host_store(_WAIT_S), LOOPBACK, lambda: None)


def host_store(wait_s: float) -> TCPStore:
    """Opens a trial's store on this node, on a port that the system chooses.

    Its own ranks reach it by address: ``localhost`` is a name, which need not resolve.
    """
    return TCPStore(LOOPBACK, 0, None, is_master=True, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def reach_store(host: str, port: int, wait_s: float) -> TCPStore:
    """Connects to a trial's store on node 0."""
    return TCPStore(host, port, None, is_master=False, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def _handler(parameters: RendezvousParameters) -> Any:
    return parameters.config["handler"]


rendezvous_handler_registry.register(BACKEND, _handler)
