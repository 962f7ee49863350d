"""Where nodes and ranks meet: node 0's port, a trial's store, and a rank's place among them."""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from bench_apts.core import gpu_devices
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from bench_apts.core.job import RankJob

_RETRY_S = 0.2
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
    return _open_store("127.0.0.1", 0, hosted=True)


def reach_store(host: str, port: int) -> TCPStore:
    """Connect to a trial's store on node 0."""
    return _open_store(host, port, hosted=False)


def _open_store(host: str, port: int, hosted: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, None, is_master=hosted, timeout=_STORE_TIMEOUT,
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
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        **({gpu_devices.VISIBLE: ",".join(job.gpus)} if job.gpus else {})}


def listen(host: str, port: int) -> socket.socket:
    """Open node 0's port: at the address given, or for a name on all interfaces.

    A host's own name often leads to its loopback interface, which others cannot reach.

    Raises:
        UserError: The address is not this machine's, or the port is taken.
    """
    try:
        if _is_address(host):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"--rendezvous {host}:{port}: node 0 waits there, and this machine "
                            f"has no address {host}; give the machine that has it --node-rank 0"
                            ) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"node 0 cannot wait for the others at {host}:{port}: {reason}; choose "
                        "another port with --rendezvous HOST:PORT") from error


def connect(host: str, port: int, patience_s: float) -> socket.socket:
    """Connect to node 0, which may not have begun to listen yet.

    Raises:
        UserError: It does not answer within ``patience_s`` seconds.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection(
                (host, port), max(_RETRY_S, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() + _RETRY_S > deadline:
                raise UserError(f"no answer from node 0 at {host}:{port} within {patience_s:.0f} "
                                f"s ({error.strerror or error}); start the same command there "
                                "with --node-rank 0, or see what it said") from error
            time.sleep(_RETRY_S)


def interface_of(address: str) -> str | None:
    """Return the name of this machine's interface with an address; None if there is none."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(_bare(entry.address) == _bare(address) for entry in addresses):
            return str(name)
    return None


def _bare(address: str) -> str:
    """Return an address without an IPv6 zone and without the mapping of IPv4 into IPv6."""
    return address.partition("%")[0].removeprefix("::ffff:")


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
