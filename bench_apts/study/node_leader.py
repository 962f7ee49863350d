"""Node 0 of a study on several nodes: begins each trial on all, and collects how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import time
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError
from bench_apts.launch import multi_node, rendezvous
from bench_apts.launch.processes import ProcessOutcome
from bench_apts.launch.rendezvous import NodePlace, host_store
from bench_apts.launch.worker import LOST_PEERS
from bench_apts.study import node_follower

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from bench_apts.core.job import RankJob
    from bench_apts.launch.cluster import Placement
    from bench_apts.study.plan import Plan

_SUCCESS_WAIT_S = 60.0
"""How long a node may take to end when node 0's own ranks have succeeded."""

_STOP_WAIT_S = 20.0
"""How long a node may take to end its ranks when a trial failed or was stopped."""

_HELLO_WAIT_S = 10.0


@dataclasses.dataclass
class _Node:
    """Another node as node 0 sees it; without a channel once it is gone."""

    rank: int
    machine: dict[str, Any]
    channel: multi_node.NodeChannel | None
    ended: ProcessOutcome | None = None
    lost: str = ""

    def __str__(self) -> str:
        return f"node {self.rank} ({self.machine.get('hostname', '?')})"

    @property
    def busy(self) -> bool:
        return self.channel is not None and self.ended is None


@contextlib.contextmanager
def leading_nodes(plan: Plan, placement: Placement, patience_s: float,
                  say: Callable[[str], None]) -> Iterator[Leader | None]:
    """Hold the other nodes of a study while the block runs; None where there are none.

    Args:
        plan: The study's trials.
        placement: This node's place.
        patience_s: For how long to wait for the other nodes, in seconds.
        say: Shows a line to the user.
    """
    if placement.nodes == 1:
        yield None
        return
    with Leader(
        placement, node_follower.node_agreement(plan), node_follower.describe_machine()
    ) as leader:
        leader.gather(patience_s, say)
        yield leader


class Leader:
    """Node 0's connections; a context manager that sends the other nodes how the command ended.

    Args:
        placement: This node's place.
        agreement: What all nodes must have in common.
        machine: What records say of this node.

    Raises:
        UserError: The given address cannot be listened at.
    """

    def __init__(
        self, placement: Placement, agreement: dict[str, Any], machine: dict[str, Any]
    ) -> None:
        self._placement, self._agreement = placement, agreement
        self._machine = machine
        self._listener = rendezvous.listen(
            placement.host if placement.port else "", placement.port)
        self._nodes: list[_Node] = []
        self._number = 0
        self._store: Any = None

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: object) -> None:
        self.dismiss(*(multi_node.exit_code_of(error) if error else ()))

    @property
    def machines(self) -> list[dict[str, Any]]:
        """What records say of all nodes, by rank."""
        return [self._machine, *(node.machine for node in self._nodes)]

    @property
    def address(self) -> str:
        """This node's address as the first of the others sees it."""
        return next(node.channel.here for node in self._nodes if node.channel)

    def gather(self, patience_s: float, say: Callable[[str], None]) -> None:
        """Wait until all nodes have come and agree in everything that must be equal.

        Args:
            patience_s: For how long to wait, in seconds.
            say: Shows which nodes this one waits for.

        Raises:
            UserError: One has not come, or differs.
        """
        port = self._listener.getsockname()[1]
        if not self._placement.port and self._placement.outer is not None:
            from bench_apts.launch import cluster

            kept = cluster.publish_port(self._placement.outer, port, patience_s)
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
        """Accept a node; refuse any other connection."""
        channel = multi_node.NodeChannel(connection)
        try:
            hello = channel.receive(_HELLO_WAIT_S, multi_node.Hello)
        except multi_node.ConnectionLost:
            hello = None
        if not isinstance(hello, multi_node.Hello):
            channel.close()
            return
        node = _Node(hello.node, hello.machine, channel)
        if hello.node not in missing:
            multi_node.close_with_code(
                channel,
                2,
                f"node 0 has a node {hello.node} already, or expects "
                f"none; give each of the {self._placement.nodes} a "
                "--node-rank of its own",
            )
            return
        wrong = node_follower.agreement_differences(
            self._agreement, hello.agreement, "node 0", str(node)
        )
        if wrong:
            text = f"the nodes differ: {wrong}; give all the same code, options and data"
            multi_node.close_with_code(channel, 2, text)
            raise UserError(text)
        with contextlib.suppress(multi_node.ConnectionLost):
            channel.send(multi_node.Welcome(str(self._machine["hostname"])))
            self._nodes.append(node)

    def ready(self) -> None:
        """Make sure that all nodes are there.

        Raises:
            UserError: One is gone, so that no trial can run any more.
        """
        for node in self._nodes:
            self._look(node)
            if node.channel is None:
                raise UserError(f"{node} is gone: {node.lost}; finished trials are kept, the same "
                                "command on all nodes goes on from there")

    def begin(self, job: RankJob, limit_s: float) -> NodePlace:
        """Begin a trial on all nodes; return this node's place in it."""
        for node in self._nodes:
            node.ended = None
        self._number += 1
        store = host_store()
        for node in self._nodes:
            self._tell(node, multi_node.BeginTrial(self._number, job, store.port, limit_s))
        return NodePlace(self._placement.nodes, 0, store, self._watch)

    def settled(self, own: ProcessOutcome) -> ProcessOutcome:
        """Wait until the trial is over on all nodes, which takes seconds; return how it ended.

        Args:
            own: How it ended on this node.

        Returns:
            The outcome of the node where the trial failed first; ``own`` if it failed nowhere.
        """
        well = own.reason is None
        if well:
            self._await(_SUCCESS_WAIT_S)
        for node in self._nodes:
            if node.busy:
                self._tell(node, multi_node.StopTrial(self._number))
        self._await(_STOP_WAIT_S)
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
        outcomes = [(here, own), *((str(node), node.ended) for node in self._nodes)]
        failed = [dataclasses.replace(outcome, reason=f"{where}, {outcome.reason}")
                  for where, outcome in outcomes
                  if outcome and outcome.reason and outcome != multi_node.ELSEWHERE]
        # Ranks that lost their peers are not where it began.
        failed.sort(key=lambda outcome: bool(LOST_PEERS.search(outcome.reason or "")))
        if not failed or LOST_PEERS.search(failed[0].reason or ""):
            failed[:0] = [ProcessOutcome("error", f"{node} is gone: {node.lost}")
                          for node in self._nodes if node.channel is None]
        return failed[0] if failed else own

    def dismiss(self, code: int = 0, reason: str = "") -> None:
        """Send the other nodes that there is no more to do, and why; later calls do nothing."""
        if self._listener.fileno() >= 0:
            while select.select([self._listener], [], [], 0)[0]:  # connections made meanwhile
                multi_node.close_with_code(
                    multi_node.NodeChannel(self._listener.accept()[0]), code, reason
                )
        self._listener.close()
        for node in self._nodes:
            if node.channel:
                multi_node.close_with_code(node.channel, code, reason)
            node.channel, node.lost = None, "it was dismissed"

    def _watch(self) -> None:
        """End our ranks as soon as another node's have failed."""
        for node in self._nodes:
            self._look(node)
            if node.channel is None or (node.ended and node.ended.reason
                                        and node.ended.status != "interrupted"):
                raise multi_node.EndedElsewhere

    def _look(self, node: _Node, patience_s: float = 0.0) -> None:
        """Read what a node says."""
        try:
            message = (
                node.channel.receive(patience_s, multi_node.RanksEnded, multi_node.Bye)
                if node.channel
                else None
            )
        except multi_node.ConnectionLost as error:
            self._lose(node, str(error))
            return
        if isinstance(message, multi_node.Bye):
            self._lose(node, message.reason or f"it ended with code {message.code}")
        elif isinstance(message, multi_node.RanksEnded) and message.number == self._number:
            node.ended = ProcessOutcome(message.status, message.reason, message.traceback)

    def _tell(self, node: _Node, message: multi_node.BeginTrial | multi_node.StopTrial) -> None:
        try:
            if node.channel:
                node.channel.send(message)
        except multi_node.ConnectionLost as error:
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
