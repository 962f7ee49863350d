"""Node 0 of a study on several machines: hands each trial to all, and hears how it ended there."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import time
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError
from bench_apts.launch.failures import Outcome
from bench_apts.launch.nodes import network
from bench_apts.launch.nodes.channel import (
    Begin,
    Bye,
    Channel,
    Ended,
    Gone,
    Hello,
    Stop,
    Welcome,
    farewell,
    last_word,
)
from bench_apts.launch.nodes.spread import ELSEWHERE, EndedElsewhere
from bench_apts.launch.worker import LOST_PEERS
from bench_apts.study.nodes.agreement import differences

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from bench_apts.core.job import Job
    from bench_apts.launch.nodes.placement import Placement
    from bench_apts.launch.nodes.rendezvous import Place

_STORE_WAIT_S = 30.0
"""How long the agents of a trial may take to meet in its store; all have been told to."""

_AFTER_S = 60.0
"""How long a node may take to end when node 0's own ranks have succeeded."""

_STOPPED_S = 20.0
"""How long a node may take to end its ranks when a trial failed or was stopped."""

_GREETING_S = 10.0


@dataclasses.dataclass
class _Node:
    """Another node as node 0 sees it; without a channel once it is gone."""

    rank: int
    machine: dict[str, Any]
    channel: Channel | None
    ended: Outcome | None = None
    lost: str = ""

    def __str__(self) -> str:
        return f"node {self.rank} ({self.machine.get('hostname', '?')})"

    @property
    def busy(self) -> bool:
        return self.channel is not None and self.ended is None


class Leader:
    """Node 0. Use as a context manager, which tells the others how the command ended.

    Args:
        placement: This node's place.
        agreement: What all nodes must have in common.
        machine: What records say of this node.

    Raises:
        UserError: Nobody can be waited for at the given address.
    """

    def __init__(
        self, placement: Placement, agreement: dict[str, Any], machine: dict[str, Any]
    ) -> None:
        self._placement, self._agreement = placement, agreement
        self._machine = machine
        self._listener = network.listen(placement.host if placement.port else "", placement.port)
        self._nodes: list[_Node] = []
        self._number = 0
        self._store: Any = None

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: object) -> None:
        self.dismiss(*(last_word(error) if error else ()))

    @property
    def machines(self) -> list[dict[str, Any]]:
        """What records say of all nodes, by rank."""
        return [self._machine, *(node.machine for node in self._nodes)]

    @property
    def address(self) -> str:
        """This node's address as the first of the others sees it."""
        return next(node.channel.here for node in self._nodes if node.channel)

    def gather(self, patience_s: float, say: Callable[[str], None]) -> None:
        """Waits until all nodes have come and agree in everything that must be equal.

        Args:
            patience_s: For how long to wait, in seconds.
            say: Is told whom this node waits for.

        Raises:
            UserError: One has not come, or differs.
        """
        port = self._listener.getsockname()[1]
        if not self._placement.port and self._placement.outer is not None:
            from bench_apts.launch.nodes import torchrun

            kept = torchrun.publish(self._placement.outer, port, patience_s)
        else:
            kept = None
        where = dataclasses.replace(self._placement, port=port).endpoint
        deadline = time.monotonic() + patience_s
        while missing := sorted(set(range(1, self._placement.nodes))
                                - {node.rank for node in self._nodes}):
            names = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            say(f"node 0 waits for {names} at {where}")
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._listener], [], [], left)[0]:
                raise UserError(f"{names} did not come to {where} within {patience_s:.0f} s; "
                                "start the same command there, or see what it said")
            self._greet(self._listener.accept()[0], missing)
        del kept
        self._nodes.sort(key=lambda node: node.rank)

    def _greet(self, connection: socket.socket, missing: list[int]) -> None:
        """Takes a node in; whoever else knocks is sent away."""
        channel = Channel(connection)
        try:
            hello = channel.receive(_GREETING_S, Hello)
        except Gone:
            hello = None
        if not isinstance(hello, Hello):
            channel.close()
            return
        node = _Node(hello.node, hello.machine, channel)
        if hello.node not in missing:
            farewell(channel, 2, f"node 0 has a node {hello.node} already, or expects none; give "
                                  f"each of the {self._placement.nodes} a --node-rank of its own")
            return
        wrong = differences(self._agreement, hello.agreement, "node 0", str(node))
        if wrong:
            text = f"the nodes differ: {wrong}; give all the same code, options and data"
            farewell(channel, 2, text)
            raise UserError(text)
        with contextlib.suppress(Gone):
            channel.send(Welcome(str(self._machine["hostname"])))
            self._nodes.append(node)

    def ready(self) -> None:
        """Makes sure that all nodes are there.

        Raises:
            UserError: One is gone, so that no trial can run any more.
        """
        for node in self._nodes:
            self._look(node)
            if node.channel is None:
                raise UserError(f"{node} is gone: {node.lost}; finished trials are kept, the same "
                                "command on all nodes goes on from there")

    def begin(self, job: Job, limit_s: float) -> Place:
        """Hands a trial to all nodes.

        Returns:
            This node's place in it.
        """
        from bench_apts.launch.nodes import rendezvous

        for node in self._nodes:
            node.ended = None
        self._number += 1
        store = rendezvous.host_store(_STORE_WAIT_S)
        for node in self._nodes:
            self._tell(node, Begin(self._number, job, store.port, limit_s))
        return rendezvous.Place(self._placement.nodes, 0, store, self.address, self._watch)

    def settled(self, own: Outcome) -> Outcome:
        """Waits until the trial is over on all nodes, which takes seconds, and says how it ended.

        Args:
            own: How it ended on this node.

        Returns:
            The outcome of the node where the trial failed first; ``own`` if it failed nowhere.
        """
        well = own.reason is None
        if well:
            self._await(_AFTER_S)
        for node in self._nodes:
            if node.busy:
                self._tell(node, Stop(self._number))
        self._await(_STOPPED_S)
        for node in self._nodes:
            if node.busy:
                self._lose(node, "it does not end its ranks")
        leaving = [(node, node.ended.reason) for node in self._nodes if node.ended
                   and node.ended.status == "interrupted" and node.ended.reason]
        for node, reason in leaving:
            self._lose(node, reason)
            if well and own.status == "interrupted":  # in order, as that node asked for
                own = dataclasses.replace(own, reason=f"{node}, {reason}")
        if well or own.status in ("timeout", "interrupted"):
            return own
        here = f"node 0 ({self._machine['hostname']})"
        told = [(here, own), *((str(node), node.ended) for node in self._nodes)]
        failed = [dataclasses.replace(outcome, reason=f"{where}, {outcome.reason}")
                  for where, outcome in told
                  if outcome and outcome.reason and outcome != ELSEWHERE]
        # Ranks that lost their peers are not where it began.
        failed.sort(key=lambda outcome: bool(LOST_PEERS.search(outcome.reason or "")))
        if not failed or LOST_PEERS.search(failed[0].reason or ""):
            failed[:0] = [Outcome("error", f"{node} is gone: {node.lost}")
                          for node in self._nodes if node.channel is None]
        return failed[0] if failed else own

    def dismiss(self, code: int = 0, reason: str = "") -> None:
        """Tells the other nodes that there is no more to do, and why; later calls do nothing."""
        if self._listener.fileno() >= 0:
            while select.select([self._listener], [], [], 0)[0]:  # whoever knocked meanwhile
                farewell(Channel(self._listener.accept()[0]), code, reason)
        self._listener.close()
        for node in self._nodes:
            if node.channel:
                farewell(node.channel, code, reason)
            node.channel, node.lost = None, "it was dismissed"

    def _watch(self) -> None:
        """Ends our ranks as soon as another node's have failed.

        Raises:
            EndedElsewhere: They have.
        """
        for node in self._nodes:
            self._look(node)
            if node.channel is None or (node.ended and node.ended.reason
                                        and node.ended.status != "interrupted"):
                raise EndedElsewhere

    def _look(self, node: _Node, patience_s: float = 0.0) -> None:
        """Takes what a node says."""
        try:
            message = node.channel.receive(patience_s, Ended, Bye) if node.channel else None
        except Gone as error:
            self._lose(node, str(error))
            return
        if isinstance(message, Bye):
            self._lose(node, message.reason or f"it ended with code {message.code}")
        elif isinstance(message, Ended) and message.number == self._number:
            node.ended = Outcome(message.status, message.reason, message.traceback)

    def _tell(self, node: _Node, message: Begin | Stop) -> None:
        try:
            if node.channel:
                node.channel.send(message)
        except Gone as error:
            self._lose(node, str(error))

    def _lose(self, node: _Node, why: str) -> None:
        if node.channel:
            node.channel.close()
        node.channel, node.lost = None, why

    def _await(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        for node in self._nodes:
            while node.busy and (left := deadline - time.monotonic()) > 0:
                self._look(node, left)
