"""What node 0 and the other nodes of a study tell each other: JSON lines over one connection."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

import msgspec
from msgspec import Struct

from bench_apts.core.errors import UserError
from bench_apts.core.job import Job
from bench_apts.core.records import Status

_LONGEST = 2**22
"""Bytes of the longest message; a job is a few thousand."""

_SILENCE_S = 20
"""After how long without any answer of its kernel a machine counts as gone."""


class Hello(Struct, frozen=True, tag="hello"):
    """A node comes: who it is, and what must be as on node 0 (see ``agreement``)."""

    node: int
    machine: dict[str, Any]
    agreement: dict[str, Any]


class Welcome(Struct, frozen=True, tag="welcome"):
    """Node 0 takes the node in."""

    hostname: str


class Begin(Struct, frozen=True, tag="begin"):
    """Node 0 begins a trial: its number, and the port of its store on node 0."""

    number: int
    job: Job
    port: int
    limit_s: float


class Stop(Struct, frozen=True, tag="stop"):
    """Node 0 has given a trial up: end your ranks."""

    number: int


class Ended(Struct, frozen=True, tag="ended"):
    """A node's ranks are gone, this is how: an ``Outcome`` in words of its own."""

    number: int
    status: Status
    reason: str | None
    traceback: str | None


class Bye(Struct, frozen=True, tag="bye"):
    """The last word of either side: the exit code, and why if there is a reason to give."""

    code: int
    reason: str = ""


Message = Hello | Welcome | Begin | Stop | Ended | Bye

_decoder = msgspec.json.Decoder(Message)


class Gone(Exception):
    """The other side has closed the connection, or spoke nonsense."""


class Channel:
    """One connection between node 0 and another node.

    Args:
        connection: A connected TCP socket, which belongs to the channel from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._read = connection, b""
        connection.settimeout(_SILENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A machine without power or network says nothing at all.
        for name, value in (("TCP_KEEPIDLE", _SILENCE_S // 4), ("TCP_KEEPINTVL", _SILENCE_S // 4),
                            ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 1000 * _SILENCE_S)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.here: str = connection.getsockname()[0]
        self.there: str = connection.getpeername()[0]

    def fileno(self) -> int:
        """The descriptor, for ``select``."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Sends a message.

        Raises:
            Gone: Nobody is there.
        """
        try:
            self._socket.sendall(msgspec.json.encode(message) + b"\n")
        except OSError as error:
            raise Gone(error.strerror or str(error)) from error

    def receive(self, patience_s: float, *kinds: type[Message]) -> Message | None:
        """Waits for a message.

        Args:
            patience_s: For how long to wait; 0 takes what is there.
            kinds: What is expected.

        Returns:
            The message, or None if there is none yet.

        Raises:
            Gone: The connection ended, or brought something else.
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
                raise Gone(error.strerror or str(error)) from error
            if not more or len(self._read) > _LONGEST:
                raise Gone("it closed the connection" if not more else "it talks too much")
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        try:
            message = _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise Gone(f"it is no bench-apts of this version ({error})") from error
        if not isinstance(message, kinds):
            raise Gone(f"it said {type(message).__name__} out of turn")
        return message

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def farewell(channel: Channel, code: int, reason: str = "") -> None:
    """Says goodbye to whoever may still be there, and ends the connection."""
    with contextlib.suppress(Gone):
        channel.send(Bye(code, reason))
    channel.close()


def last_word(error: BaseException | None) -> tuple[int, str]:
    """Returns the exit code that an error ends the command with, and what to tell the others."""
    code = getattr(error, "exit_code", None)  # of the command line's own way to end
    if isinstance(code, int):
        return code, ""
    return (2, str(error)) if isinstance(error, UserError) else (1, type(error).__name__)
