"""All checks of an optimizer: short trainings on 1, 2 and 3 ranks, and what they show."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.core import observations
from bench_apts.core.errors import UserError
from bench_apts.core.job import EXAMINATION, RankJob, derive_seed
from bench_apts.core.spec import (
    Budget,
    Data,
    Evaluation,
    Model,
    Provenance,
    Seeds,
    Suite,
    Target,
    Trial,
)
from bench_apts.study import optimizer_checks, resolve
from bench_apts.study.examined_ranks import ExaminedRanks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.spec import Entry
    from bench_apts.launch.elastic import Launcher
    from bench_apts.launch.processes import ProcessOutcome
    from bench_apts.plugins.registry import Plugin
    from bench_apts.study.check_findings import CheckFinding

SIZES = (1, 2, 3)
"""World sizes of the trainings."""

_BATCH, _SAMPLES, _LIMIT_S = 24, 720, 60.0
"""A global minibatch that each world size can share, a budget, and a launch's seconds."""

_RANK = re.compile(r"rank (\d+)")


def required_packages(selectors: Sequence[str]) -> list[str]:
    """Return the modules that optimizers need and that a launcher imports once for all ranks."""
    return [EXAMINATION.partition(":")[0], *sorted({
        name for text in selectors for name in resolve.resolve_entry(text)[1].backend.requires})]


def examine_optimizer(
    selector: str, launcher: Launcher, folder: Path, sizes: Sequence[int] = SIZES
) -> list[CheckFinding]:
    """Return what each check finds of an optimizer.

    Args:
        selector: As in ``--optimizers``: a name or a plug-in file, and hyperparameters.
        launcher: Starts the ranks, on CPUs.
        folder: Where ranks may write what they see.
        sizes: World sizes, in ascending order.

    Raises:
        UserError: The optimizer is unknown or unavailable, or cannot be configured like this.
    """
    entry, plugin = resolve.resolve_entry(selector)
    reason = plugin.backend.unavailable()
    if reason:
        raise UserError(f"optimizer {entry.label} is unavailable: {reason}")
    launches: list[ExaminedRanks] = []
    for ranks in sizes:
        if ranks < plugin.backend.min_ranks:
            continue
        launches.append(_launch(_trial(entry, plugin, ranks), launcher, folder))
        if launches[-1].stage in ("start", "plain"):
            break  # nothing runs; more ranks would say so again
    if not launches:
        raise UserError(f"optimizer {entry.label} takes {plugin.backend.min_ranks} ranks at least "
                        f"and is tested with up to {max(sizes)}")
    formula = plugin.backend.formula(plugin.backend.configure(entry.pinned))
    return optimizer_checks.check_optimizer(plugin.backend, formula, launches)


def examine_alone(selector: str, sizes: Sequence[int] = SIZES) -> list[CheckFinding]:
    """Do what ``examine_optimizer`` does with a launcher and a folder of its own."""
    from bench_apts.launch.elastic import Launcher

    with (tempfile.TemporaryDirectory(prefix="bench-apts-test-") as folder,
          Launcher(required_packages([selector]), "cpu") as launcher):
        return examine_optimizer(selector, launcher, Path(folder), sizes)


def _trial(entry: Entry, plugin: Plugin, ranks: int) -> Trial:
    """Return a trial that says what the ranks are to examine."""
    backend = plugin.backend
    values = backend.configure(entry.pinned)
    batch = backend.minibatch(_BATCH, values, ranks)
    if batch % ranks:
        raise UserError(f"{backend.name}: batch_size({_BATCH}, …, {ranks}) returned {batch}, "
                        f"which {ranks} ranks cannot share; round it to a multiple of them")
    backend.slicing(values)  # raises here what the ranks would
    return Trial(
        label=entry.label, optimizer=backend.name, hyperparameters=values,
        tuning_free=backend.tuning_free, batch_size=batch, suite=_SUITE, ranks=ranks,
        stage="report", repetition=0,
        seeds=Seeds(data=0, init=derive_seed(0, "init", _SUITE.name, 0)), device="cpu",
        data_sha256="", plugin=plugin.reference, plugin_sha256=plugin.sha256)


_SUITE = Suite(
    name="examination", summary="a small perceptron, and a small convolution",
    data=Data(name="examination"), model=Model(name="examination"), batch_size=_BATCH,
    budget=Budget(samples=_SAMPLES, seconds=_LIMIT_S),
    evaluation=Evaluation(every_samples=_SAMPLES),
    target=Target(metric="loss", direction="min", value=1.0,
                  provenance=Provenance(optimizer="", trials=0, seeds=0)))
"""A suite for what describes a trial; no trial of it could run."""


def _launch(trial: Trial, launcher: Launcher, folder: Path) -> ExaminedRanks:
    events = folder / f"{trial.run_id}-{trial.ranks}"
    outcome = launcher.run(
        RankJob(trial, data="", events=str(events), program=EXAMINATION), _LIMIT_S)
    logs = [observations.read_log(observations.log_file(events, rank))
            for rank in range(trial.ranks)]
    if outcome.status == "miss":
        return ExaminedRanks(trial.ranks, logs)
    return _failed(trial, logs, outcome)


def _failed(
    trial: Trial, logs: list[observations.RankLog], outcome: ProcessOutcome
) -> ExaminedRanks:
    """Say at what the ranks failed: the one that did first, or rank 0 where all hung."""
    reason = outcome.reason or outcome.status
    found = _RANK.match(reason)
    log = logs[min(int(found[1]), trial.ranks - 1) if found else 0]
    reason = reason.replace("ContractError: ", "")
    if outcome.status == "timeout":
        reason += ("; where ranks wait for each other, one has left out a collective or called "
                   "another one: let all ranks decide alike")
    refused = log.building and log.stage == "convolution" and "UserError: " in reason
    if log.building and not refused:
        reason = f"build() failed: {reason}"
    if log.stage == "convolution" and not refused:
        reason += ("; this network has a frozen layer (train only parameters that require a "
                   "gradient), weights of 4 dimensions, and a parameter that two layers share")
    return ExaminedRanks(trial.ranks, logs, reason.replace("UserError: ", ""), log.stage, refused)
