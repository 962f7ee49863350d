"""Where the ranks of a trial meet: a store on node 0, and how torch finds a rank's place in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import TCPStore

    from bench_apts.core.job import RankJob

_STORE_TIMEOUT = timedelta(seconds=30)
"""How long the ranks of a trial may take to meet in its store."""


@dataclass(frozen=True)
class NodePlace:
    """A node's place in a trial.

    Attributes:
        nodes: How many there are.
        rank: Number of this one.
        store: The trial's store, in which all ranks meet.
        watch: Called repeatedly while ranks run; raises if they must end.
    """

    nodes: int
    rank: int
    store: TCPStore
    watch: Callable[[], None] = lambda: None


def host_store() -> TCPStore:
    """Open a trial's store on this node, at a port that the system chooses.

    Its own ranks reach it by address: the name ``localhost`` need not resolve.
    """
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, None, is_master=True, timeout=_STORE_TIMEOUT,
                    wait_for_workers=False)


def reach_store(host: str, port: int) -> TCPStore:
    """Connect to a trial's store on node 0."""
    from torch.distributed import TCPStore

    return TCPStore(host, port, None, is_master=False, timeout=_STORE_TIMEOUT,
                    wait_for_workers=False)


def rank_environment(job: RankJob, place: NodePlace, ranks: int, local: int) -> dict[str, str]:
    """Return the variables by which torch finds a rank's place, as torchrun sets them.

    Args:
        job: The trial.
        place: The node's place in it.
        ranks: How many ranks each node runs.
        local: The rank's number on the node.
    """
    rank, world = str(place.rank * ranks + local), str(job.trial.ranks)
    return {
        "RANK": rank, "WORLD_SIZE": world, "ROLE_RANK": rank, "ROLE_WORLD_SIZE": world,
        "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(ranks), "ROLE_NAME": "default",
        "GROUP_RANK": str(place.rank), "GROUP_WORLD_SIZE": str(place.nodes),
        "MASTER_ADDR": place.store.host, "MASTER_PORT": str(place.store.port),
        "TORCHELASTIC_RUN_ID": job.trial.run_id, "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
