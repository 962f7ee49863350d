"""Sockets between nodes: where node 0 listens, how others reach it, and by which interface."""

from __future__ import annotations

import errno
import socket
import time
from ipaddress import ip_address

from bench_apts.core.errors import UserError

_RETRY_S = 0.2


def listen(host: str, port: int) -> socket.socket:
    """Opens node 0's port: at an address there, at a name on all interfaces.

    A host's own name often leads to its loopback interface, where nobody else comes.

    Raises:
        UserError: The address is not this machine's, or the port is taken.
    """
    family, address = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET, ""
    if _is_address(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = host
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"--rendezvous {host}:{port}: node 0 waits there, and this machine "
                            f"has no address {host}; give the machine that has it --node-rank 0"
                            ) from error
        raise UserError(f"node 0 cannot wait for the others at {host}:{port}: {error.strerror}; "
                        "choose another port with --rendezvous HOST:PORT") from error
    return listener


def connect(host: str, port: int, patience_s: float) -> socket.socket:
    """Reaches node 0, which may not have begun to listen yet.

    Raises:
        UserError: It does not answer in time.
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


def interface(address: str) -> str | None:
    """Returns the name of this machine's interface with an address; None if there is none."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(_plain(entry.address) == _plain(address) for entry in addresses):
            return str(name)
    return None


def _plain(address: str) -> str:
    """Drops the zone of an IPv6 address and the mapping of an IPv4 one."""
    return address.partition("%")[0].removeprefix("::ffff:")


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
