"""Any node of a study but node 0: runs its ranks of each trial that node 0 begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.errors import UserError
from bench_apts.launch.nodes import network
from bench_apts.launch.nodes.channel import (
    Begin,
    Bye,
    Channel,
    Ended,
    Gone,
    Hello,
    Message,
    Stop,
    Welcome,
    farewell,
    last_word,
)
from bench_apts.launch.nodes.spread import EndedElsewhere, SpreadLauncher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.job import Job
    from bench_apts.launch.failures import Outcome
    from bench_apts.launch.nodes.placement import Placement
    from bench_apts.launch.nodes.rendezvous import Place
    from bench_apts.study.plan import Plan

_STORE_WAIT_S = 30.0
_IDLE_S = 3600.0
_MARGIN_S = 60.0
"""Node 0 ends a trial at its time limit; a node that heard nothing does so itself then."""


class Follower:
    """A node's connection to node 0. Use as a context manager.

    Args:
        placement: This node's place.
        plan: The study as this node understands it.
        agreement: What all nodes must have in common.
        machine: What records say of this node.
        patience_s: For how long to wait for node 0 and the other nodes, in seconds.

    Raises:
        UserError: Node 0 does not answer, or refuses this node.
    """

    def __init__(self, placement: Placement, plan: Plan, agreement: dict[str, Any],
                 machine: dict[str, Any], patience_s: float) -> None:
        self._placement, self._plan = placement, plan
        port = placement.port
        if not port and placement.outer is not None:
            from bench_apts.launch.nodes import torchrun

            port = torchrun.look_up(placement.outer, patience_s)
        self._channel = Channel(network.connect(placement.host, port, patience_s))
        self._name = f"node 0 ({placement.host}:{port})"
        self._begun: Begin | None = None
        try:
            self._channel.send(Hello(placement.rank, machine, agreement))
            answer = self._channel.receive(patience_s, Welcome, Bye)
        except Gone as error:
            raise self._gone(str(error)) from error
        if isinstance(answer, Bye):
            raise UserError(answer.reason)
        if not isinstance(answer, Welcome):
            raise self._gone(f"it said nothing within {patience_s:.0f} s")
        self.leader = answer.hostname

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: object) -> None:
        if kind is not None:
            farewell(self._channel, *last_word(error))
        self._channel.close()

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self._placement.nodes

    @property
    def address(self) -> str:
        """This node's address as node 0 sees it."""
        return self._channel.here

    def serve(self, preload: Sequence[str], told: Callable[[str], None], grace_s: float) -> int:
        """Runs trials until node 0 has no more.

        Args:
            preload: Modules that the trials will need.
            told: Is told of each trial in a line.
            grace_s: How long SIGTERM leaves a trial to end in order, in seconds.

        Returns:
            The exit code that node 0 names.

        Raises:
            UserError: Node 0 is gone, or ended by a mistake that the user can mend.
            Interrupted: A signal asked this command to stop.
        """
        from bench_apts.study.progress import describe

        with SpreadLauncher(preload, self._plan.study.device, self) as launcher:
            launcher.grace_s = grace_s
            while not isinstance(message := self._next(), Bye):
                if isinstance(message, Begin):
                    self._begun = message
                    job = self._here(message.job)
                    outcome = launcher.run(job, message.limit_s + _MARGIN_S)
                    told(f"{describe(job.trial)}: {outcome.reason or outcome.status}")
        if message.reason:
            raise UserError(f"node 0 ended: {message.reason}")
        return message.code

    def ready(self) -> None:
        """Does nothing: node 0 makes sure that the others are there."""

    def begin(self, job: Job, limit_s: float) -> Place:
        """Takes this node's place in the trial that node 0 has begun."""
        from bench_apts.launch.nodes import rendezvous

        assert self._begun is not None
        store = rendezvous.reach_store(self._channel.there, self._begun.port, _STORE_WAIT_S)
        return rendezvous.Place(self._placement.nodes, self._placement.rank, store,
                                self._channel.here, self._watch)

    def settled(self, own: Outcome) -> Outcome:
        """Tells node 0 how the trial ended here."""
        assert self._begun is not None
        try:
            self._channel.send(Ended(self._begun.number, own.status, own.reason, own.traceback))
        except Gone as error:
            raise self._gone(str(error)) from error
        return own

    def _next(self) -> Message:
        try:
            while True:
                message = self._channel.receive(_IDLE_S, Begin, Stop, Bye)
                if message is not None:
                    return message
        except Gone as error:
            raise self._gone(str(error)) from error

    def _watch(self) -> None:
        """Ends our ranks as soon as node 0 says so, or is gone."""
        try:
            message = self._channel.receive(0.0, Stop, Bye)
        except Gone as error:
            raise self._gone(str(error)) from error
        if isinstance(message, Bye):
            raise self._gone(message.reason or f"it ended with code {message.code}")
        if isinstance(message, Stop) and self._begun and message.number == self._begun.number:
            raise EndedElsewhere

    def _gone(self, why: str) -> UserError:
        return UserError(f"{self._name} is gone: {why}; finished trials are kept there, the same "
                         "command on all nodes goes on from there")

    def _here(self, job: Job) -> Job:
        """Puts this node's paths in place of node 0's; the contents are known to be equal."""
        plugin = self._plan.plugins[job.trial.label]
        return msgspec.structs.replace(
            job, folder=self._plan.study.folder(job.trial.suite),
            data=str(self._plan.prepared[job.trial.suite.data.name].folder),
            trial=msgspec.structs.replace(job.trial, plugin=plugin.reference))
