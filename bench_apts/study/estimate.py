"""What a study will cost, before it runs: trials counted exactly, their time estimated."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from bench_apts.core import environment, store
from bench_apts.stats import power
from bench_apts.suites.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_apts.core.spec import Study, Suite
    from bench_apts.study.plan import Cell, Plan
    from bench_apts.suites.data import Prepared

_FACTOR, _SCATTER = 1.2, 0.1
"""The difference, and the scatter of costs, that the planned seeds are measured by."""


def lines(plan: Plan, folder: Path) -> Iterator[str]:
    """Yields the plan line by line.

    The time of a trial is the mean of finished trials of the same competitor, suite and N in
    ``folder``. Where there is none, one forward and backward pass is timed here and multiplied by
    the samples of the budget; communication and start-up are then left out, and said to be.
    """
    study = plan.study
    known = [r for r in store.read_trials(folder) if r.finished] if folder.exists() else []
    timed = {suite.name: _sample_seconds(Problem(suite, study.folder(suite)),
                                         plan.prepared[suite.data.name], study.device)
             for suite in study.suites}
    yield f"results folder: {folder}"
    yield f"device: {study.device}, world sizes: {', '.join(map(str, study.ranks))}"
    total, bare = 0.0, False
    for cell in plan.cells:
        drawn = 1 if plan.leader(cell) else plan.tunings(cell)
        done = {r.trial.repetition for r in known if plan.belongs(r, cell)}
        left = sum(k not in done for k in range(drawn)) + plan.reports(cell)
        times = [r.end.wall_s for r in known if r.end
                 and (r.trial.suite, r.trial.label, r.trial.ranks) == _key(cell)]
        if times:
            seconds = statistics.mean(times)
            source = f"as {len(times)} finished trials took"
        else:
            workers = (min(cell.ranks, environment.usable_cores()) if study.device == "cpu"
                       else cell.ranks)
            seconds = timed[cell.suite.name] * cell.suite.budget.samples / workers
            source, bare = "computing alone", True
        total += seconds * left
        yield (f"{cell.suite.name} {cell.entry.label} N={cell.ranks}: {drawn} tuning + "
               f"{_reports(plan, cell)} report trials of {cell.suite.budget.samples} samples, "
               f"{left} to run at most, about {seconds:.1f} s each, {source}")
    whole = f"{total / 60:.0f} min" if total >= 120 else f"{total:.1f} s"
    yield (f"estimated cost: about {whole}"
           + (", more with communication and start-up" if bare else ""))
    yield from _design(study)


def _design(study: Study) -> Iterator[str]:
    """Say what differences the planned seeds can tell, where costs scatter by 10 %."""
    rivals = len(study.entries) - 1
    if not rivals:
        return
    spread = power.Spread(_SCATTER)
    pairs = f"{study.seeds} seed{'s' * (study.seeds != 1)} in pairs"
    share = power.power(spread, spread, (study.seeds,) * 2, _FACTOR, paired=True, rivals=rivals)
    enough = (None if share >= power.ENOUGH else
              power.needed(spread, spread, _FACTOR, rivals=rivals))
    yield (f"design: {pairs} tell two of {rivals + 1} optimizers a factor of {_FACTOR:g} apart in "
           f"{share:.0%} of studies, where costs scatter by {_SCATTER:.0%}"
           + ("" if enough is None else
              f"; {enough} seeds would in {power.ENOUGH:.0%} (bench-apts power)"))


def _reports(plan: Plan, cell: Cell) -> str:
    """Counts report trials; before tuning is over, nobody knows whether one or two are frozen."""
    least = plan.study.seeds * (1 + plan.twinned(cell))
    most = plan.reports(cell)
    return str(most) if least == most else f"{least} to {most}"


def _key(cell: Cell) -> tuple[Suite, str, int]:
    return cell.suite, cell.entry.label, cell.ranks


def _sample_seconds(problem: Problem, prepared: Prepared, device: str) -> float:
    """Times one forward and backward pass here; returns seconds per sample on one device."""
    import torch

    from bench_apts.suites import data
    from bench_apts.tasks import module as tasks
    from bench_apts.trial.loader import Resident

    torch.set_num_threads(1)
    dataset, suite = data.load(prepared.folder), problem.suite
    model, loss = tasks.trained(
        problem.network(dataset), problem.task, suite.loss_scale or 1.0)
    model.to(device)
    size = min(suite.batch_size, len(dataset.train_targets))
    some = range(size)  # a copy, unlike a slice of mapped arrays
    split = Resident(dataset.train_inputs[some], dataset.train_targets[some], dataset.mean,
                     dataset.std, dataset.scale, torch.device(device))
    batch = tasks.handed(problem.task, split.take(torch.arange(size, device=device)))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        loss(model(batch.inputs), batch.targets).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / size
