"""Trials whose ranks are spread evenly over several nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from bench_apts.launch.elastic import Interrupted, Launcher
from bench_apts.launch.failures import Outcome
from bench_apts.launch.nodes import network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.job import Job
    from bench_apts.launch.nodes.rendezvous import Place

ELSEWHERE = Outcome("error", "ended because it was over on another node")


class EndedElsewhere(Exception):
    """A trial is over on another node, so that its ranks here are to be ended."""


class Peers(Protocol):
    """The other nodes, as node 0 or one of the others sees them."""

    @property
    def address(self) -> str:
        """This node's address as the others see it."""
        ...

    def ready(self) -> None:
        """Makes sure that all of them are there."""
        ...

    def begin(self, job: Job, limit_s: float) -> Place:
        """Agrees with the others on a trial; returns this node's place in it."""
        ...

    def settled(self, own: Outcome) -> Outcome:
        """Hears from the others how a trial ended, or tells them."""
        ...


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
        # The way to the other nodes; NCCL finds its own unless the user names one.
        interface = network.interface(self._peers.address)
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        super().__enter__()
        return self

    def ready(self) -> None:
        """Makes sure that all nodes are there.

        Raises:
            UserError: One is gone, so that no trial can run any more.
        """
        self._peers.ready()

    def run(self, job: Job, limit_s: float) -> Outcome:
        """Runs this node's ranks of a trial; see ``Launcher.run``.

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
            self._peers.settled(Outcome("interrupted", f"ended by {signal}"))
            raise
        return self._peers.settled(outcome)

