"""What ranks do on an emulated network: timed collectives, and whole trials."""

import importlib
import os
import socket
import statistics
import time
from functools import partial

import msgspec
import torch_names
from network_emulator import DEVICE, Link, address, ahead_of_all_else, join

from bench_apts.core.job import RankJob

_PORT = 29500


def probe(seat):
    """Measures the link between two seats with plain TCP, as one would between two machines.

    Half a round trip of one byte is the latency, and what a large message takes beyond the round
    trip gives the bandwidth; medians.

    Returns:
        The link, on seat 1; None elsewhere.
    """
    if seat > 1:
        return None
    times = {1: [], 4_000_000: []}
    with _connected(seat) as peer:
        for size, seconds in times.items():
            message = bytes(size)
            for _ in range(15 if size == 1 else 3):
                before = time.monotonic()
                if seat == 1:
                    peer.sendall(message)
                    peer.recv(1, socket.MSG_WAITALL)
                else:
                    peer.recv(size, socket.MSG_WAITALL)
                    peer.sendall(b"!")
                seconds.append(time.monotonic() - before)
    short, long = map(statistics.median, times.values())
    return Link(max(times) / (long - short), short / 2) if seat == 1 else None


def _connected(seat):
    """Returns a connection between seats 0 and 1."""
    if seat == 0:
        with socket.create_server((address(0), _PORT)) as server:
            peer, _ = server.accept()
    else:
        peer = _retry(lambda: socket.create_connection((address(0), _PORT)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _retry(connect, patience_s=20):
    """Connects as soon as somebody listens."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return connect()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def probed(_, path):
    """Joins the network and returns the link as ``probe`` sees it."""
    ahead_of_all_else()
    return probe(join(path))


def timed(connect, path, ranks, payloads, repetitions, pause_s):
    """Times each collective on payloads of some bytes; all ranks begin at the same moment.

    Args:
        connect: Joins the process group.
        path: The emulated network; loopback if there is none.
        ranks: World size.
        payloads: Bytes of the logical tensor.
        repetitions: How often each is timed.
        pause_s: Seconds from the end of one to the beginning of the next, long enough for ranks
            to agree on it.

    Returns:
        Seconds from the common beginning to this rank's end, by collective and payload, and the
        link as ``probe`` sees it, if this rank does.
    """
    import torch
    import torch.distributed as dist

    ahead_of_all_else()
    link = None
    if path:
        link = probe(join(path))
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    connect()
    found = {}
    for payload in payloads:
        part, whole = torch.ones(payload // 4 // ranks), torch.ones(payload // 4)
        calls = {
            "all_reduce": partial(dist.all_reduce, whole),
            "broadcast": partial(dist.broadcast, whole, 0)}
        if len(part):
            calls |= {
                "reduce_scatter": partial(torch_names.reduce_scatter_single, part, whole),
                "all_gather": partial(torch_names.all_gather_single, whole, part)}
        for name, call in calls.items():
            found[name, payload] = [_once(call, pause_s) for _ in range(repetitions)]
    found["barrier", 0] = [_once(dist.barrier, pause_s) for _ in range(repetitions)]
    return found, link


def _once(call, pause_s):
    """Seconds of one collective from a moment that all ranks await: they share the clock."""
    import torch
    import torch.distributed as dist

    moment = torch.tensor([time.monotonic() + pause_s], dtype=torch.float64)
    dist.all_reduce(moment, dist.ReduceOp.MAX)
    left = float(moment) - time.monotonic()
    assert left > 0, "the pause is too short for the ranks to agree on a beginning"
    time.sleep(left)
    call()
    return time.monotonic() - float(moment)


def trained(connect, path, ranks, port, job):
    """Runs a trial as one of its ranks; returns its status.

    Args:
        connect: Joins a process group; on loopback it tells the rank.
        path: The emulated network; loopback if there is none.
        ranks: World size.
        port: Free on loopback.
        job: A ``Job`` as JSON.
    """
    import torch.distributed as dist

    from bench_apts.plugins import registry
    from bench_apts.trial import trial_run as trial

    if path:
        rank, host = join(path), address(0)
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
    else:
        connect()
        rank, host = dist.get_rank(), "127.0.0.1"
        dist.barrier()  # the others may still be connecting
        dist.destroy_process_group()
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": host, "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu"}
    optimizer = msgspec.json.decode(job, type=RankJob).trial.optimizer
    for module in registry.optimizer(optimizer).backend.requires:
        importlib.import_module(module)
    ahead_of_all_else()
    return trial.main(job)
