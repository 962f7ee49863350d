"""A node of a study other than node 0: runs its ranks of each trial that node 0 begins.

Before that all nodes must agree in code, options and data; ``node_agreement`` says in what.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from bench_apts.core import environment
from bench_apts.core.errors import UserError
from bench_apts.core.interrupts import interruptible
from bench_apts.launch import multi_node, rendezvous
from bench_apts.launch.rendezvous import NodePlace, reach_store
from bench_apts.study import preflight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.core.job import RankJob
    from bench_apts.launch.cluster import Placement
    from bench_apts.launch.processes import ProcessOutcome
    from bench_apts.study.plan import Plan

_IDLE_S = 3600.0
_MARGIN_S = 60.0
"""Node 0 ends a trial at its time limit; a node that heard nothing does so itself then."""

_CODE = ("bench_apts", "bench_apts.optimizers", "bench_apts.suites")
_NODE_0_ONLY = ("bench_apts.reports", "bench_apts.cli")
"""Code that may differ, as it runs on node 0 alone or says nothing to the others."""

_SHOWN = 3
"""Differences that a message names at most."""


def follow_node_0(plan: Plan, placement: Placement, patience_s: float, grace_s: float,
                  say: Callable[[str], None]) -> int:
    """Run this node's ranks of the trials that node 0 begins, until it has no more.

    Args:
        plan: The study's trials.
        placement: This node's place.
        patience_s: For how long to wait for node 0 and the other nodes, in seconds.
        grace_s: How long SIGTERM leaves a trial to end in order, in seconds.
        say: Shows a line to the user.

    Returns:
        The exit code that node 0 names.

    Raises:
        Interrupted: A signal asked to stop.
        UserError: Node 0 is gone, or ended by a mistake that the user can correct.
    """
    name = f"node {placement.rank} of {placement.nodes}"
    say(f"{name} looks for node 0 at {placement.endpoint}")
    with (Follower(placement, plan, node_agreement(plan), describe_machine(), patience_s)
          as follower, interruptible()):
        say(f"{name} runs its ranks of the trials that node 0 ({follower.leader}) begins; "
            "results and report are there")
        preflight.require_resources(plan, placement.nodes)
        return follower.serve(plan.packages(), say, grace_s)


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
            from bench_apts.launch import cluster

            port = cluster.look_up_port(placement.outer, patience_s)
        self._channel = multi_node.NodeChannel(
            rendezvous.connect(placement.host, port, patience_s)
        )
        self._name = f"node 0 ({placement.host}:{port})"
        self._begun: multi_node.BeginTrial | None = None
        try:
            self._channel.send(multi_node.Hello(placement.rank, machine, agreement))
            answer = self._channel.receive(patience_s, multi_node.Welcome, multi_node.Bye)
        except multi_node.ConnectionLost as error:
            raise self._gone(str(error)) from error
        if isinstance(answer, multi_node.Bye):
            raise UserError(answer.reason)
        if not isinstance(answer, multi_node.Welcome):
            raise self._gone(f"it said nothing within {patience_s:.0f} s")
        self.leader = answer.hostname

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: object) -> None:
        if kind is not None:
            multi_node.close_with_code(self._channel, *multi_node.exit_code_of(error))
        self._channel.close()

    @property
    def address(self) -> str:
        """This node's address as node 0 sees it."""
        return self._channel.here

    def serve(self, packages: Sequence[str], say: Callable[[str], None], grace_s: float) -> int:
        """Run trials until node 0 has no more; see ``follow_node_0``."""
        from bench_apts.study.progress import describe_trial

        with multi_node.SpreadLauncher(packages, self._plan.study.device, self) as launcher:
            launcher.grace_s, launcher.note = grace_s, say
            while not isinstance(message := self._next(), multi_node.Bye):
                if isinstance(message, multi_node.BeginTrial):
                    self._begun = message
                    job = self._localised(message.job)
                    outcome = launcher.run(job, message.limit_s + _MARGIN_S)
                    say(f"{describe_trial(job.trial)}: {outcome.reason or outcome.status}")
        if message.reason:
            raise UserError(f"node 0 ended: {message.reason}")
        return message.code

    def ready(self) -> None:
        """Do nothing: node 0 makes sure that the others are there."""

    def begin(self, job: RankJob, limit_s: float) -> NodePlace:
        """Return this node's place in the trial that node 0 has begun."""
        assert self._begun is not None
        store = reach_store(self._channel.there, self._begun.port)
        return NodePlace(self._placement.nodes, self._placement.rank, store, self._watch)

    def settled(self, own: ProcessOutcome) -> ProcessOutcome:
        """Tell node 0 how the trial ended here."""
        assert self._begun is not None
        try:
            self._channel.send(
                multi_node.RanksEnded(self._begun.number, own.status, own.reason, own.traceback))
        except multi_node.ConnectionLost as error:
            raise self._gone(str(error)) from error
        return own

    def _next(self) -> multi_node.Message:
        try:
            while True:
                message = self._channel.receive(
                    _IDLE_S, multi_node.BeginTrial, multi_node.StopTrial, multi_node.Bye
                )
                if message is not None:
                    return message
        except multi_node.ConnectionLost as error:
            raise self._gone(str(error)) from error

    def _watch(self) -> None:
        """End our ranks as soon as node 0 says so, or is gone."""
        try:
            message = self._channel.receive(0.0, multi_node.StopTrial, multi_node.Bye)
        except multi_node.ConnectionLost as error:
            raise self._gone(str(error)) from error
        if isinstance(message, multi_node.Bye):
            raise self._gone(message.reason or f"it ended with code {message.code}")
        if (
            isinstance(message, multi_node.StopTrial)
            and self._begun
            and message.number == self._begun.number
        ):
            raise multi_node.EndedElsewhere

    def _gone(self, why: str) -> UserError:
        return UserError(f"{self._name} is gone: {why}; finished trials are kept there, the same "
                         "command on all nodes goes on from there")

    def _localised(self, job: RankJob) -> RankJob:
        """Replace node 0's paths by this node's; the contents are known to be equal."""
        plugin = self._plan.plugins[job.trial.label]
        return msgspec.structs.replace(
            job, folder=self._plan.study.folder(job.trial.suite),
            data=str(self._plan.prepared[job.trial.suite.data.name].folder),
            trial=msgspec.structs.replace(job.trial, plugin=plugin.reference))


def node_agreement(plan: Plan) -> dict[str, Any]:
    """Return what must be equal on all nodes, as plain values for JSON.

    Keys: ``bench-apts code`` (sha256 of its source files), ``python``, ``versions`` by package,
    ``study`` (as resolved from the command's options), ``plug-ins`` and ``data`` (sha256 by name).
    """
    card = environment.environment_card()
    # Through JSON and back: as another node's comes.
    return cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode({
        "bench-apts code": _code(),
        "python": card["python"],
        "versions": card["versions"],
        # Folders may lie elsewhere; what suites take from them is in their code_sha256.
        "study": msgspec.structs.replace(plan.study, folders=msgspec.UNSET),
        "plug-ins": {label: plugin.sha256 for label, plugin in plan.plugins.items()},
        "data": {name: data.sha256 for name, data in plan.prepared.items()},
    })))


def describe_machine() -> dict[str, Any]:
    """Return what records say of a node: host name, processor, cores and GPUs."""
    card = environment.environment_card()
    return {key: card[key] for key in ("hostname", "cpu", "cores", "gpus")}


def agreement_differences(ours: dict[str, Any], theirs: dict[str, Any], us: str, them: str) -> str:
    """Say in what two agreements differ, ours and that of a node called ``them``; "" if equal."""
    found = [f"{key} is {_short(mine)} on {us} and {_short(other)} on {them}"
             for key, mine, other in _unequal("", ours, theirs)]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _unequal(key: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in (*ours, *(name for name in theirs if name not in ours)):
            yield from _unequal(f"{key}.{name}" if key else name, ours.get(name, "missing"),
                                theirs.get(name, "missing"))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(f"{key}[{number}]", mine, other)
    elif ours != theirs:
        yield key, ours, theirs


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:12]}…"


def _code() -> str:
    """Hash the sources that ranks run, the same for a checkout and an installed package."""
    sources: dict[str, bytes] = {}
    for package in _CODE:
        spec = find_spec(package)
        assert spec is not None
        for folder in map(Path, spec.submodule_search_locations or ()):
            for path in (*folder.rglob("*.py"), *folder.rglob("*.cpp")):
                name = ".".join((package, *path.relative_to(folder).parts))
                if not name.startswith(_NODE_0_ONLY):
                    sources[name] = path.read_bytes()
    total = hashlib.sha256()
    for name in sorted(sources):
        total.update(f"{name} {len(sources[name])} ".encode() + sources[name])
    return total.hexdigest()
