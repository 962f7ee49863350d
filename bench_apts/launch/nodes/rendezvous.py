"""How the agents of several nodes meet for one trial: a store of its own, node ranks as given.

torch's dynamic c10d rendezvous numbers nodes by their addresses; here node 0 must have rank 0,
which writes the records. Its static one leaves an agent in C++ calls that no signal ends and that
notice a lost node after minutes. So this handler takes the ranks as given, and waits in Python.
"""

from __future__ import annotations

import time
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

_LOOK_S = 0.05


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


class Rendezvous(RendezvousHandler):
    """Joins the agents of one trial.

    Args:
        run_id: Name of the trial.
        nodes: How many agents there are.
        rank: Number of this one.
        store: The trial's store, of which the ranks make use too.
        watch: Called time and again while ranks run; raises if they are to be ended.
    """

    def __init__(
        self, run_id: str, nodes: int, rank: int, store: TCPStore, watch: Callable[[], None]
    ) -> None:
        self._run_id, self._nodes, self._rank = run_id, nodes, rank
        self._store, self._watch = store, watch

    def get_backend(self) -> str:
        """Names the rendezvous."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether ranks use the same store; node 0 hosts it as long as its agent runs."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Tells the agent its rank; it meets the others in the store."""
        return RendezvousInfo(
            _WatchedStore("agents", self._store, self._watch), self._rank, self._nodes,
            RendezvousStoreInfo(self._store.host, self._store.port))

    def num_nodes_waiting(self) -> int:
        """Is asked by the agent whenever it has looked at its ranks; nodes never come late."""
        self._watch()
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


def host_store(wait_s: float) -> TCPStore:
    """Opens a trial's store on this node, on a port that the system chooses."""
    return TCPStore("localhost", 0, None, is_master=True, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def reach_store(host: str, port: int, wait_s: float) -> TCPStore:
    """Connects to a trial's store on node 0."""
    return TCPStore(host, port, None, is_master=False, timeout=timedelta(seconds=wait_s),
                    wait_for_workers=False)


def _handler(parameters: RendezvousParameters) -> Any:
    return parameters.config["handler"]


rendezvous_handler_registry.register(BACKEND, _handler)
