"""What one step of every backend costs a rank, in exact counts: bytes, collectives, passes."""

from __future__ import annotations

from bench_apts.suites.regressions.marks import marked
from bench_apts.suites.regressions.study import PARAMS, Told, of, setup, setup_cache

__all__ = ["setup", "setup_cache"]


@marked(unit="bytes", version="2", **PARAMS)
def track_bytes_per_step(told: Told, backend: str, ranks: int) -> float:
    """Ideal bytes that a rank sends in a step."""
    return of(told, backend, ranks).per_step["bytes"]


@marked(unit="collectives", version="2", **PARAMS)
def track_collectives_per_step(told: Told, backend: str, ranks: int) -> float:
    """Calls of collectives in a step."""
    return of(told, backend, ranks).per_step["collectives"]


@marked(unit="passes", version="2", **PARAMS)
def track_forwards_per_step(told: Told, backend: str, ranks: int) -> float:
    """Forward passes of a rank in a step."""
    return of(told, backend, ranks).per_step["forwards"]


@marked(unit="passes", version="2", **PARAMS)
def track_backwards_per_step(told: Told, backend: str, ranks: int) -> float:
    """Backward passes of a rank in a step."""
    return of(told, backend, ranks).per_step["backwards"]
