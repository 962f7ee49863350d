"""Runs a study: prepares data, tunes, freezes, reports; finished trials are never run again."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import ReadWriteLock, Timeout
from msgspec import UNSET

from bench_apts.core import environment, resources, store, threads
from bench_apts.core.errors import UserError, told
from bench_apts.core.job import GRACE_S
from bench_apts.launch.elastic import Launcher
from bench_apts.launch.nodes.spread import SpreadLauncher
from bench_apts.meters import comm
from bench_apts.study.execution import WHOLLY
from bench_apts.study.runner import Runner
from bench_apts.study.splitting import shards
from bench_apts.study.splitting.helpers import Work, helpers, wait
from bench_apts.study.splitting.jobs import ALONE
from bench_apts.study.stages import Stages
from bench_apts.study.tryout import require_torch, try_out
from bench_apts.suites.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_apts.core.spec import Study, Suite
    from bench_apts.study.execution import Execution
    from bench_apts.study.nodes.follower import Follower
    from bench_apts.study.nodes.leader import Leader
    from bench_apts.study.plan import Plan
    from bench_apts.study.progress import Progress
    from bench_apts.study.splitting.helpers import Helper
    from bench_apts.suites.data import Prepared

_NEEDED_BYTES = 64 * 2**20
"""Free space below which a study does not start: records are small, figures a few megabytes."""


def prepare(study: Study, data_dir: Path | None, offline: bool) -> dict[str, Prepared]:
    """Finds and decodes the data of all suites.

    Returns:
        The prepared data sets by name.

    Raises:
        UserError: They cannot be had, or two of one name differ.
    """
    from bench_apts.suites import data, own

    chosen: dict[str, Suite] = {}
    for suite in study.suites:
        other = chosen.setdefault(suite.data.name, suite)
        if other.data.contents != suite.data.contents:
            raise UserError(f"the suites {other.name} and {suite.name} have different data of the "
                            f"name '{suite.data.name}'; rename one of the suites")
    return {name: (own.prepare(suite, Problem(suite, study.folder(suite)), data_dir,
                               offline=offline)
                   if suite.data.source else data.prepare(name, data_dir, offline))
            for name, suite in chosen.items()}


@contextlib.contextmanager
def opened(folder: Path, shared: bool = False) -> Iterator[None]:
    """Makes a results folder and holds it against other commands.

    Args:
        folder: The results folder.
        shared: Lets others in that share it too.

    Raises:
        UserError: It cannot be written, has too little space, or another command holds it.
    """
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        lock = ReadWriteLock(folder / ".lock.db", timeout=0, blocking=False)
        (lock.acquire_read if shared else lock.acquire_write)()
    except Timeout as error:
        raise UserError(f"another bench-apts is working in {folder}; wait for it, share the work "
                        "by giving both commands --shared, or name another folder with --out or "
                        "--study") from error
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot write to {folder}: {why}; choose another folder with --out"
                        ) from error
    try:
        free = shutil.disk_usage(folder).free
        if free < _NEEDED_BYTES:
            raise UserError(f"{folder} has {free / 2**20:.0f} MiB free, at least "
                            f"{_NEEDED_BYTES / 2**20:.0f} MiB are needed; choose another folder "
                            "with --out")
        yield
    finally:
        lock.release()


def run(plan: Plan, folder: Path, progress: Progress, execution: Execution = WHOLLY,
        leader: Leader | None = None) -> str:
    """Runs every trial of a plan that has no answer yet.

    Args:
        plan: The study's trials.
        folder: The results folder; see ``opened``.
        progress: Is told what happens.
        execution: How the trials are run, and which of them.
        leader: The other nodes that share the ranks, if there are any.

    Returns:
        Empty if all that was asked for is there, else in a line what is missing, and the remedy.

    Raises:
        Interrupted: A signal asked to stop; the running trial is recorded as interrupted.
        UserError: A suite's data cannot be split, or its model not built, as it says, or torch
            or the system lacks what the ranks need.
    """
    study, prepared = plan.study, plan.prepared
    _require_resources(study, len(leader.machines) if leader else 1)
    comm.prepare()
    if execution.shared and not execution.jobs.helper:
        execution = execution.beginning(store.read_trials(folder))
    shard, jobs = execution.shard, execution.jobs
    work = Work(study, {name: (told("decoded data", found.folder), found.sha256, found.source)
                        for name, found in prepared.items()}, str(folder), execution)
    with helpers(work) as started, _launcher(plan, leader) as launcher:
        require_torch(study.device)
        resources.require_address_space(resources.address_space())
        for suite in study.suites:  # while the server starts
            try_out(study, suite, prepared[suite.data.name])
        card = environment.card()  # now that the launcher has set the thread variables
        if leader:
            card["nodes"] = leader.machines
        if not jobs.helper:
            store.write_json(folder / "study.json", store.StudyFile(
                study, ["bench-apts", *sys.argv[1:]], store.now(), card,
                data={name: found.sha256 for name, found in prepared.items()},
                code={label: plugin.sha256 for label, plugin in plan.plugins.items()},
                untuned=plan.untuned(),
                unpublished=[name for name, found in prepared.items()
                             if not found.published] or UNSET))
        runner = Runner(folder, prepared, card, launcher, progress, execution, {
            label: environment.versions(plugin.backend.requires)
            for label, plugin in plan.plugins.items()}, study.folders or {}, study.workers or {})
        launcher.grace_s = execution.grace_s
        stages = Stages(plan, folder, runner, progress, execution)
        missing = stages.tune()
        if not jobs.timed:
            _hear(started, progress)
            runner.jobs = ALONE
        if missing:
            return shards.what_next(shard, folder, missing, 0)
        if not execution.reports:
            return ""
        missing = stages.report()
        if jobs.timed:
            _hear(started, progress)
        return shards.what_next(shard, folder, 0, missing) if missing else ""


def _hear(started: Sequence[Helper], progress: Progress) -> None:
    """Waits for helpers to end, and says which could not do their part."""
    for words in wait(started):
        progress.note(words)


def follow(plan: Plan, follower: Follower, told: Callable[[str], None],
           grace_s: float = GRACE_S) -> int:
    """Runs this node's ranks of the trials that node 0 begins, until it has no more.

    Args:
        plan: The study's trials.
        follower: The connection to node 0.
        told: Is told of each trial in a line.
        grace_s: As in ``run``.

    Returns:
        The exit code that node 0 names.

    Raises:
        Interrupted: A signal asked to stop.
        UserError: Node 0 is gone, or ended by a mistake that the user can mend.
    """
    _require_resources(plan.study, follower.nodes)
    comm.prepare()
    return follower.serve(_packages(plan), told, grace_s)


def _require_resources(study: Study, nodes: int) -> None:
    resources.require(max(1, max(study.ranks) // nodes), threads.openmp())


def _launcher(plan: Plan, leader: Leader | None) -> Launcher:
    if leader is None:
        return Launcher(_packages(plan), plan.study.device)
    return SpreadLauncher(_packages(plan), plan.study.device, leader)


def _packages(plan: Plan) -> list[str]:
    """The modules that trials need and that are worth importing once."""
    packages = {name for plugin in plan.plugins.values() for name in plugin.backend.requires}
    if plan.study.pruner != "none":
        packages.add("optuna")
    return sorted(packages)
