"""What every backend needs to reach a target, in counts; a missed target fails."""

from __future__ import annotations

from bench_apts.suites.regressions.marks import marked
from bench_apts.suites.regressions.study import LEVEL, PARAMS, Told, of, setup, setup_cache

__all__ = ["setup", "setup_cache"]


def tracked(told: Told, backend: str, ranks: int, what: str) -> float:
    """Looks a count up.

    Raises:
        RuntimeError: The target was missed.
    """
    counts = of(told, backend, ranks).to_target
    if counts is None:
        raise RuntimeError(f"{backend}, N = {ranks}: {LEVEL:.0%} of the target was missed")
    return counts[what]


@marked(unit="samples", version="1", **PARAMS)
def track_samples_to_target(told: Told, backend: str, ranks: int) -> float:
    """Samples that all ranks together process."""
    return tracked(told, backend, ranks, "samples")


@marked(unit="passes", version="1", **PARAMS)
def track_forwards_to_target(told: Told, backend: str, ranks: int) -> float:
    """Forward passes of a rank."""
    return tracked(told, backend, ranks, "forwards")


@marked(unit="passes", version="1", **PARAMS)
def track_backwards_to_target(told: Told, backend: str, ranks: int) -> float:
    """Backward passes of a rank."""
    return tracked(told, backend, ranks, "backwards")


@marked(unit="bytes", version="1", **PARAMS)
def track_bytes_to_target(told: Told, backend: str, ranks: int) -> float:
    """Ideal bytes that a rank sends."""
    return tracked(told, backend, ranks, "bytes")


@marked(unit="share of samples", version="1", **PARAMS)
def track_error_at_fixed_budget(told: Told, backend: str, ranks: int) -> float:
    """Validation error rate after the same number of samples."""
    return of(told, backend, ranks).error
