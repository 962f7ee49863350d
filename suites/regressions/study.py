"""The study that most counts come from: every backend at every N, once per commit.

Real trials by the real launcher on the bundled digits. The modules that import ``setup_cache``
share one run of it; asv runs it in a folder of its own, in which the records stay.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.suites.regressions.marks import marked

if TYPE_CHECKING:
    from bench_apts.core.records import Eval, TrialRecord
    from bench_apts.core.spec import Suite

RANKS = (1, 2, 4)
"""World sizes N. More ranks than cores are no harm: nothing here is a time."""

PINNED = {
    "adam": "lr=0.01", "zero1": "lr=0.01", "zero2": "lr=0.01", "zero3": "lr=0.01",
    "local-adam": "lr=0.01", "prodigy": "d0=0.001",
}
"""Hyperparameters of the backends that would not reach the target with their defaults."""

BACKENDS = ("adam", "adam-batch", "adam-default", "apts", "apts-paper", "local-adam", "nadamw",
            "nadamw-list", "napts", "prodigy", "schedule-free", "sgd", "sgd-batch", "tr", "zero1",
            "zero2", "zero3")

PARAMS: dict[str, Any] = {
    "params": [list(BACKENDS), list(RANKS)], "param_names": ["backend", "N"]}
"""Of every benchmark that looks a trial of this study up."""

FIXED = 5_600
"""Samples of all ranks after which what is counted up to a fixed budget is read."""

LEVEL = 0.9
"""Share of the suite's target that is to be reached: an accuracy of 0.8595, which the slowest
backends reach after three quarters of the budget."""

RECORDS = Path("records")
"""The study's results folder, within that in which asv runs the benchmarks."""


class Counts(NamedTuple):
    """What one trial counted; ``per_step`` and ``error`` up to ``FIXED`` samples.

    Attributes:
        per_step: Ideal bytes, collectives, forward and backward passes of a rank, by name.
        to_target: Samples of all ranks, passes of a rank and ideal bytes of a rank up to the
            evaluation that hit ``LEVEL``, by name; None where it was missed.
        error: Share of the validation samples that are misclassified.
        peak_bytes: Largest peak of memory of a rank.
    """

    per_step: dict[str, float]
    to_target: dict[str, float] | None
    error: float
    peak_bytes: int


Told = dict[tuple[str, int], Counts | str | None]
"""By backend and N: what was counted, why there is nothing, or None where no backend is."""


@marked(version="1", timeout=1200)
def setup_cache() -> Told:
    """Trains every backend once at every N."""
    # CPU ranks also where there are GPUs, so that counts of different machines compare.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from rich.console import Console

    from bench_apts.core import store
    from bench_apts.plugins import registry
    from bench_apts.study import resolve
    from bench_apts.study.plan import Plan
    from bench_apts.study.preflight import prepare_data
    from bench_apts.study.progress import StudyProgress
    from bench_apts.study.scheduler import run_study
    from bench_apts.study.shared_folder import open_results_folder

    told: Told = {}
    built_in = registry.optimizer_names()
    for name in BACKENDS:
        if name not in built_in:  # asv runs these files on older commits too
            told |= dict.fromkeys(itertools.product([name], RANKS))
            continue
        reason = registry.optimizer(name).backend.unavailable()
        for ranks in RANKS:
            told[name, ranks] = f"unavailable: {reason}" if reason else "no trial"
    resolved, _ = resolve.resolve_study(
        suites=["digits"], overrides=(), gpus=",".join(map(str, RANKS)),
        optimizers=",".join(f"{name}[{PINNED[name]}]" if name in PINNED else name
                            for name in BACKENDS if told[name, RANKS[0]] == "no trial"),
        trials=0, seeds=1, base_seed=0, twins=False)
    prepared = prepare_data(resolved, None, offline=True)
    with open_results_folder(RECORDS):
        run_study(Plan(resolved, prepared), RECORDS, StudyProgress(Console(quiet=True)))
    for record in store.read_trials(RECORDS):
        told[record.trial.optimizer, record.trial.ranks] = counted(record)
    return told


def counted(record: TrialRecord) -> Counts | str:
    """Reads a trial's counts, or says why there are none."""
    start, end, suite = record.start, record.end, record.trial.suite
    if start is None or end is None or end.status not in ("hit", "miss"):
        return f"{end.status}: {end.reason}" if end else "the trial has no end"
    if record.uncounted:
        return f"bytes are not counted: {record.uncounted}"
    fixed = next((e for e in record.evals if e.samples >= FIXED), None)
    if fixed is None:
        return f"no evaluation at {FIXED} samples or later"
    hit = _hit(record.evals, suite)
    return Counts(
        per_step={
            "bytes": _bytes(fixed) / fixed.step,
            "collectives": sum(t.calls for t in fixed.comm.get("train", {}).values()) / fixed.step,
            "forwards": fixed.forwards / fixed.step,
            "backwards": fixed.backwards / fixed.step},
        to_target=None if hit is None else {
            "samples": hit.samples, "forwards": hit.forwards, "backwards": hit.backwards,
            "bytes": _bytes(hit)},
        error=1 - fixed.validation["accuracy"],
        peak_bytes=end.peak_memory_bytes)


def _bytes(event: Eval) -> float:
    return sum(t.ideal_bytes for t in event.comm.get("train", {}).values())


def _hit(evals: list[Eval], suite: Suite) -> Eval | None:
    """Returns the evaluation that hit ``LEVEL`` of the target."""
    from bench_apts.stats.trial_costs import find_bracket

    target = suite.target
    hit = find_bracket([e.validation[target.metric] for e in evals],
                  lambda value: target.reached(value, LEVEL), suite.evaluation.consecutive)
    return evals[hit[1]] if hit else None


def setup(told: Told, backend: str, ranks: int) -> None:
    """Leaves out what the commit does not know yet: a new backend is no failure of the old code.

    Raises:
        SkipNotImplemented: It has no such backend.
    """
    from asv_runner.benchmarks.mark import SkipNotImplemented

    if told[backend, ranks] is None:
        raise SkipNotImplemented(f"this commit has no {backend}")


def of(told: Told, backend: str, ranks: int) -> Counts:
    """Looks a trial up.

    Raises:
        RuntimeError: It has no counts: asv marks the benchmark as failed, where nan would hide it.
    """
    counts = told[backend, ranks]
    if not isinstance(counts, Counts):
        raise RuntimeError(f"{backend}, N = {ranks}: {counts}")
    return counts
