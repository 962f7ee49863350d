"""What every backend needs, in exact counts of one study that trains each of them once at every N.

The benchmarks keep the names of modules that they were in, which carry their history and
thresholds (asv.conf.json). asv runs these files on older commits, too, so they import each other
relatively and everything else when it is needed.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_apts.core.records import Eval, TrialRecord
    from bench_apts.core.spec import Suite

RANKS = (1, 2, 4)
"""World sizes N. They may exceed the cores: nothing here is a time."""

PINNED = {
    "adam": "lr=0.01", "zero1": "lr=0.01", "zero2": "lr=0.01", "zero3": "lr=0.01",
    "local-adam": "lr=0.01", "prodigy": "d0=0.001",
}
"""Hyperparameters of the backends that would not reach the target with their defaults."""

BACKENDS = ("adam", "adam-batch", "adam-default", "apts", "apts-paper", "local-adam", "nadamw",
            "nadamw-list", "napts", "prodigy", "schedule-free", "sgd", "sgd-batch", "tr", "zero1",
            "zero2", "zero3")
"""Of the rivals in other packages none: their counts are those of ``adam``."""

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


Results = dict[tuple[str, int], Counts | str | None]
"""By backend and N: what was counted, why there is nothing, or None where no backend is."""

Marked = TypeVar("Marked", bound="Callable[..., Any]")


def marked(*, version: str, timeout: float = 60, **attributes: object
           ) -> Callable[[Marked], Marked]:
    """Set what asv reads from a benchmark.

    Args:
        version: asv compares numbers of the same version alone; raise it when the meaning of the
            number changes.
        timeout: Seconds after which it counts as failed.
        attributes: Whatever else asv knows, for instance ``unit``.
    """

    def mark(benchmark: Marked) -> Marked:
        for name, value in (attributes | {"version": version, "timeout": timeout}).items():
            setattr(benchmark, name, value)
        return benchmark

    return mark


@marked(version="1", timeout=1200)
def setup_cache() -> Results:
    """Train every backend once at every N."""
    # CPU ranks also where there are GPUs, so that counts of different machines compare.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from rich.console import Console

    from bench_apts.core import store
    from bench_apts.plugins import registry
    from bench_apts.study import preflight, resolve, scheduler, shared_folder
    from bench_apts.study.plan import Plan
    from bench_apts.study.progress import StudyProgress

    results: Results = {}
    built_in = registry.optimizer_names()
    for name in BACKENDS:
        if name not in built_in:  # on an older commit
            results |= dict.fromkeys(itertools.product([name], RANKS))
            continue
        reason = registry.optimizer(name).backend.unavailable()
        for ranks in RANKS:
            results[name, ranks] = f"unavailable: {reason}" if reason else "no trial"
    resolved, _ = resolve.resolve_study(
        suites=["digits"], overrides=(), gpus=",".join(map(str, RANKS)),
        optimizers=",".join(f"{name}[{PINNED[name]}]" if name in PINNED else name
                            for name in BACKENDS if results[name, RANKS[0]] == "no trial"),
        trials=0, seeds=1, base_seed=0, twins=False)
    prepared = preflight.prepare_data(resolved, None, offline=True)
    with shared_folder.open_results_folder(RECORDS):
        scheduler.run_study(Plan(resolved, prepared), RECORDS,
                            StudyProgress(Console(quiet=True)))
    for record in store.read_trials(RECORDS):
        results[record.trial.optimizer, record.trial.ranks] = counts_of(record)
    return results


def counts_of(record: TrialRecord) -> Counts | str:
    """Return a trial's counts, or say why there are none."""
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
    """Return the evaluation that hit ``LEVEL`` of the target."""
    from bench_apts.stats.trial_costs import find_bracket

    target = suite.target
    hit = find_bracket([e.validation[target.metric] for e in evals],
                       lambda value: target.reached(value, LEVEL), suite.evaluation.consecutive)
    return evals[hit[1]] if hit else None


def _require_backend(results: Results, backend: str, ranks: int) -> None:
    """Skip what the commit does not know yet: a new backend is no failure of the old code."""
    from asv_runner.benchmarks.mark import SkipNotImplemented

    if results[backend, ranks] is None:
        raise SkipNotImplemented(f"this commit has no {backend}")


def _count(name: str, unit: str, read: Callable[[Counts], float | None], version: str = "1"
           ) -> Callable[[Results, str, int], float]:
    """Return the benchmark ``name`` of every backend at every N; ``read`` finds its number."""

    @marked(version=version, benchmark_name=name, unit=unit, setup=_require_backend,
            params=[list(BACKENDS), list(RANKS)], param_names=["backend", "N"])
    def track(results: Results, backend: str, ranks: int) -> float:
        counts = results[backend, ranks]
        # asv marks a benchmark that raises as failed; nan would hide it.
        if not isinstance(counts, Counts):
            raise RuntimeError(f"{backend}, N = {ranks}: {counts}")
        number = read(counts)
        if number is None:
            raise RuntimeError(f"{backend}, N = {ranks}: {LEVEL:.0%} of the target was missed")
        return number

    return track


def _per_step(what: str, unit: str) -> Callable[[Results, str, int], float]:
    return _count(f"per_step.track_{what}_per_step", unit, lambda counts: counts.per_step[what],
                  version="2")


def _to_target(what: str, unit: str) -> Callable[[Results, str, int], float]:
    return _count(f"to_target.track_{what}_to_target", unit,
                  lambda counts: counts.to_target[what] if counts.to_target else None)


track_bytes_per_step = _per_step("bytes", "bytes")
track_collectives_per_step = _per_step("collectives", "collectives")
track_forwards_per_step = _per_step("forwards", "passes")
track_backwards_per_step = _per_step("backwards", "passes")
track_samples_to_target = _to_target("samples", "samples")
track_forwards_to_target = _to_target("forwards", "passes")
track_backwards_to_target = _to_target("backwards", "passes")
track_bytes_to_target = _to_target("bytes", "bytes")
track_error_at_fixed_budget = _count(
    "to_target.track_error_at_fixed_budget", "share of samples", lambda counts: counts.error)
track_peak_memory = _count(  # the resident set, the libraries' code included
    "memory.track_peak_memory", "bytes", lambda counts: counts.peak_bytes)


@marked(benchmark_name="report.time_html", version="1", timeout=300, number=1, repeat=3, rounds=1,
        warmup_time=0)
def time_html(results: Results) -> None:
    """Seconds of building the page of this study: 45 trials of 15 optimizers at three N."""
    from bench_apts.reports import build

    with tempfile.TemporaryDirectory() as folder:
        build(RECORDS, ("html",), out=Path(folder))
