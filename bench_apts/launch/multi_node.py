"""Trials whose ranks are spread evenly over several nodes, and the nodes' control protocol.

The protocol is JSON lines over one TCP connection from each node to node 0, the leader::

    node k                              node 0
      Hello ───────────────────────────►  compares the agreements (code, study, data …)
      ◄─────────────────────────── Welcome (or Bye with the reason)
      ◄───────────────────────── BeginTrial    both start their ranks, which meet in node 0's store
      RanksEnded ──────────────────────►  or StopTrial, as ranks elsewhere have failed
      ◄──────────────────────────────── Bye    the command's exit code; either side may end so

A side that closes the connection, or does not answer its kernel's probes, counts as gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from bench_apts.core.errors import UserError
from bench_apts.core.interrupts import Interrupted
from bench_apts.core.job import RankJob
from bench_apts.core.records import Status
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.launch.rendezvous import interface_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.launch.rendezvous import NodePlace

_MAX_MESSAGE_BYTES = 2**22
"""Bytes of the longest message; a job is a few thousand."""

_SILENCE_S = 20
"""After how long without any answer of its kernel a machine counts as gone."""


class Hello(Struct, frozen=True, tag="hello"):
    """A node introduces itself, with what must be equal on all nodes (``agreement``)."""

    node: int
    machine: dict[str, Any]
    agreement: dict[str, Any]


class Welcome(Struct, frozen=True, tag="welcome"):
    """Node 0 accepts the node."""

    hostname: str


class BeginTrial(Struct, frozen=True, tag="begin"):
    """Node 0 begins a trial, whose ranks meet in the store at ``port`` on node 0."""

    number: int
    job: RankJob
    port: int
    limit_s: float


class StopTrial(Struct, frozen=True, tag="stop"):
    """Node 0 has ended a trial early; the node ends its ranks."""

    number: int


class RanksEnded(Struct, frozen=True, tag="ended"):
    """A node's ranks have ended, with this ``ProcessOutcome``."""

    number: int
    status: Status
    reason: str | None
    traceback: str | None


class Bye(Struct, frozen=True, tag="bye"):
    """The last message of either side: the exit code, and the reason if it is not 0."""

    code: int
    reason: str = ""


Message = Hello | Welcome | BeginTrial | StopTrial | RanksEnded | Bye

_decoder = msgspec.json.Decoder(Message)


class ConnectionLost(Exception):
    """The other side has closed the connection, or broke the protocol."""


class NodeChannel:
    """One connection between node 0 and another node.

    Args:
        connection: A connected TCP socket, which the channel owns and closes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._read = connection, b""
        connection.settimeout(_SILENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine without power or network closes no connection: let the kernel probe it.
        for name, value in (("TCP_KEEPIDLE", _SILENCE_S // 4), ("TCP_KEEPINTVL", _SILENCE_S // 4),
                            ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 1000 * _SILENCE_S)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.here: str = connection.getsockname()[0]
        self.there: str = connection.getpeername()[0]

    def fileno(self) -> int:
        """Return the descriptor, for ``select``."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ConnectionLost: The other side is gone.
        """
        try:
            self._socket.sendall(msgspec.json.encode(message) + b"\n")
        except OSError as error:
            raise ConnectionLost(error.strerror or str(error)) from error

    def receive(self, patience_s: float, *kinds: type[Message]) -> Message | None:
        """Wait for a message.

        Args:
            patience_s: Seconds to wait; 0 for a message that has arrived.
            kinds: The expected classes.

        Returns:
            The message, or None if there is none yet.

        Raises:
            ConnectionLost: The connection ended, or another message came.
        """
        deadline = time.monotonic() + patience_s
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self], [], [], left)[0]:
                return None
            try:
                more = self._socket.recv(2**16)
            except ConnectionError:
                more = b""
            except OSError as error:
                raise ConnectionLost(error.strerror or str(error)) from error
            if not more or len(self._read) > _MAX_MESSAGE_BYTES:
                raise ConnectionLost("its message is too long" if more
                                     else "it closed the connection")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        try:
            message = _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ConnectionLost(f"it is no bench-apts of this version ({error})") from error
        if not isinstance(message, kinds):
            raise ConnectionLost(f"it sent {type(message).__name__} out of turn")
        return message

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def close_with_code(channel: NodeChannel, code: int, reason: str = "") -> None:
    """Send ``Bye`` if the other side is still there, and close the connection."""
    with contextlib.suppress(ConnectionLost):
        channel.send(Bye(code, reason))
    channel.close()


def exit_code_of(error: BaseException | None) -> tuple[int, str]:
    """Return the exit code that an error ends the command with, and the reason for the others."""
    code = getattr(error, "exit_code", None)  # typer.Exit
    if isinstance(code, int):
        return code, ""
    if isinstance(error, Interrupted):
        return 128 + error.number, ""
    return (2, str(error)) if isinstance(error, UserError) else (1, type(error).__name__)


ELSEWHERE = ProcessOutcome("error", "ended because it was over on another node")


class EndedElsewhere(Exception):
    """A trial is over on another node, so that its ranks here must end."""


class Peers(Protocol):
    """The other nodes, as node 0 (node_leader.py) or another one (node_follower.py) sees them."""

    @property
    def address(self) -> str:
        """This node's address as the others see it."""

    def ready(self) -> None:
        """Make sure that all of them are there."""

    def begin(self, job: RankJob, limit_s: float) -> NodePlace:
        """Agree with the others on a trial; return this node's place in it."""

    def settled(self, own: ProcessOutcome) -> ProcessOutcome:
        """Exchange how the trial ended on each node; return the outcome that counts."""


class SpreadLauncher(Launcher):
    """Runs trials together with other nodes; those of one rank on node 0 alone.

    Args:
        preload: As in ``Launcher``.
        device: As in ``Launcher``.
        peers: The other nodes.
    """

    def __init__(self, preload: Sequence[str], device: str, peers: Peers) -> None:
        super().__init__(preload, device)
        self._peers = peers

    def __enter__(self) -> SpreadLauncher:
        # Gloo needs the interface that leads to the other nodes; NCCL finds it by itself.
        interface = interface_of(self._peers.address)
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        super().__enter__()
        return self

    def ready(self) -> None:
        """Make sure that all nodes are there.

        Raises:
            UserError: One is gone, so that no further trial can run.
        """
        self._peers.ready()

    def run(self, job: RankJob, limit_s: float) -> ProcessOutcome:
        """Run this node's ranks of a trial; see ``Launcher.run``.

        Raises:
            Interrupted: A signal asked the command to stop.
            UserError: Node 0 is gone, which the others cannot do without.
        """
        if job.trial.ranks == 1:
            return super().run(job, limit_s)
        try:
            outcome = self._launch(job, limit_s, lambda: self._peers.begin(job, limit_s))
        except EndedElsewhere:
            outcome = ELSEWHERE
        except Interrupted as signal:
            self._peers.settled(ProcessOutcome("interrupted", f"ended by {signal}"))
            raise
        return self._peers.settled(outcome)
