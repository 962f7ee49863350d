"""Seconds of building a report, of the records that the counts come from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench_apts.suites.regressions.marks import marked
from bench_apts.suites.regressions.study import RECORDS, Told, setup_cache

__all__ = ["setup_cache"]


@marked(version="1", timeout=300, number=1, repeat=3, rounds=1, warmup_time=0)
def time_html(told: Told) -> None:
    """The page alone: 45 trials of 15 optimizers at three N."""
    from bench_apts.reports import build

    with tempfile.TemporaryDirectory() as folder:
        build(RECORDS, ("html",), out=Path(folder))
