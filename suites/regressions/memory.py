"""Memory of the largest rank of every backend."""

from __future__ import annotations

from bench_apts.suites.regressions.marks import marked
from bench_apts.suites.regressions.study import PARAMS, Told, of, setup, setup_cache

__all__ = ["setup", "setup_cache"]


@marked(unit="bytes", version="1", **PARAMS)
def track_peak_memory(told: Told, backend: str, ranks: int) -> float:
    """Peak memory of a rank while it trains: its resident set, the libraries' code included."""
    return of(told, backend, ranks).peak_bytes
