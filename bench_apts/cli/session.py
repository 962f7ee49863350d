"""What `run` and `tune` do alike: resolve a study, run its trials, end in order."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench_apts.core.errors import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from bench_apts.core.spec import Study, Suite
    from bench_apts.launch.nodes.placement import Placement
    from bench_apts.study.execution import Execution
    from bench_apts.study.nodes.leader import Leader
    from bench_apts.study.plan import Plan
    from bench_apts.study.splitting.jobs import Jobs


def console() -> Console:
    """Returns where progress goes."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


def place(
    out: Console, nodes: int | None, node_rank: int | None, rendezvous: str | None
) -> Placement:
    """Finds which of how many machines this one is; torchrun's variables leave the environment.

    Raises:
        UserError: It cannot be told, or the environment lets no trial run.
    """
    from bench_apts.core import resources, threads
    from bench_apts.launch.nodes import placement

    threads.openmp()
    resources.require_address_space()
    # Before torch is imported: its sockets complain at length of what we say in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

    if note := placement.left_alone(os.environ):
        out.print(f"note: {note}", markup=False)
    return placement.find(nodes, node_rank, rendezvous, os.environ)


def folder(out: Path, study: str | None, suites: Sequence[Suite]) -> Path:
    """Returns a study's results folder, named after its suites unless the user names it.

    Raises:
        UserError: The user's name is not that of a folder in ``out``.
    """
    if study is not None and (study in ("", "..") or Path(study).name != study):
        raise UserError(f"--study {study}: write a name, for instance before; --out says in which "
                        "folder it lies")
    return out / (study or "+".join(suite.name for suite in suites))


def jobs(out: Console, asked: int, timed: bool, resolved: Study, place: Placement) -> Jobs:
    """Finds how many trials can run side by side, and says so where it is fewer than asked for.

    Raises:
        UserError: The ranks are spread over several machines.
    """
    from bench_apts.study.splitting.jobs import Jobs, fitting

    if asked > 1 and place.nodes > 1:
        raise UserError("--jobs is for one machine, and --nodes spreads each trial over several; "
                        "leave one of them out")
    count, note = fitting(asked, resolved)
    if note:
        out.print(f"note: {note}", markup=False)
    return Jobs(count, timed)


def plan(
    out: Console, resolved: Study, notes: Sequence[str], data_dir: Path | None, offline: bool
) -> Plan:
    """Prepares the data and lays out the trials, saying what a user should know before."""
    from bench_apts.study import run as studies
    from bench_apts.study.plan import Plan

    for note in notes:
        out.print(f"note: {note}", markup=False)
    return Plan(resolved, studies.prepare(resolved, data_dir, offline))


def run(
    out: Console, planned: Plan, results: Path, execution: Execution, then: Callable[[], None],
    place: Placement, patience_s: float,
) -> None:
    """Runs a plan in its folder and finishes with ``then``; says which trials failed.

    On several machines node 0 does so, and the others run their ranks of its trials. Of a shard
    ``then`` waits for the whole.

    Raises:
        Exit: With code 1, if no trial of an optimizer ran to an end.
        Stopped: The environment let no further trial start.
    """
    if place.rank:
        _follow(out, planned, place, patience_s, execution.grace_s)
        return
    from bench_apts.core import store
    from bench_apts.study import run as studies
    from bench_apts.study import startups
    from bench_apts.study.progress import Progress

    with (_leading(out, planned, place, patience_s) as leader,
          studies.opened(results, execution.shared), _ending_in_order(out, f"in {results}")):
        progress = Progress(out)
        try:
            with progress.shown():
                missing = studies.run(planned, results, progress, execution, leader)
        except startups.Stopped:
            if any(map(startups.ran, store.read_trials(results))):
                then()
            raise
        failed = {name: count for name, count in progress.statuses.items()
                  if name in ("error", "oom", "timeout")}
        fruitless = startups.fruitless(planned, store.read_trials(results)) if failed else []
        code = int(bool(fruitless))
        if leader:
            leader.dismiss(code)
        if failed:
            out.print("note: " + ", ".join(f"{n} {s}" for s, n in failed.items())
                      + " among the trials; the report says why", markup=False)
        if missing:
            out.print(missing, markup=False)
        else:
            then()
        for line in fruitless:
            print(f"bench-apts: {one_line(line)}", file=sys.stderr)
        if fruitless:
            raise typer.Exit(code)


@contextlib.contextmanager
def _ending_in_order(out: Console, where: str) -> Iterator[None]:
    """Has SIGTERM and Ctrl-C end the block with a line and the exit code that shells expect."""
    from bench_apts.launch.elastic import Interrupted, interruptible

    try:
        with interruptible():
            yield
    except Interrupted as error:
        out.print(f"interrupted: finished trials are kept {where}; the same command "
                  "goes on from there", markup=False)
        raise typer.Exit(128 + error.number) from error


@contextlib.contextmanager
def _leading(
    out: Console, planned: Plan, place: Placement, patience_s: float
) -> Iterator[Leader | None]:
    """Holds the other nodes while the block runs; None where there are none."""
    if place.nodes == 1:
        yield None
        return
    from bench_apts.study.nodes import agreement
    from bench_apts.study.nodes.leader import Leader

    with Leader(place, agreement.agreement(planned), agreement.machine()) as leader:
        leader.gather(patience_s, lambda text: out.print(text, markup=False))
        yield leader


def _follow(
    out: Console, planned: Plan, place: Placement, patience_s: float, grace_s: float
) -> None:
    """Runs this node's ranks of the trials that node 0 begins."""
    from bench_apts.study import run as studies
    from bench_apts.study.nodes import agreement
    from bench_apts.study.nodes.follower import Follower

    name = f"node {place.rank} of {place.nodes}"
    out.print(f"{name} looks for node 0 at {place.endpoint}", markup=False)
    with (Follower(place, planned, agreement.agreement(planned), agreement.machine(),
                   patience_s) as follower, _ending_in_order(out, "by node 0")):
        out.print(f"{name} runs its ranks of the trials that node 0 ({follower.leader}) begins; "
                  "results and report are there", markup=False)
        code = studies.follow(planned, follower, lambda text: out.print(text, markup=False),
                              grace_s)
    raise typer.Exit(code)
