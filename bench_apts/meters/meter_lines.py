"""The lines that a metered process writes, and the settings that it reads; docs/meter.md."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench_apts.core.records import Audited
from bench_apts.meters.traffic_table import TrafficRow

SETTINGS = "BENCH_APTS_METER"
"""Environment variable with the ``MeterSettings`` as JSON."""

BOOTSTRAP = Path(__file__).parent / "bootstrap"
"""Folder that leads PYTHONPATH of a metered command."""


class MeterSettings(msgspec.Struct, frozen=True):
    """What the command asks of its processes.

    Attributes:
        folder: Where the lines go; an absolute path.
        interval_s: Seconds from one line to the next.
        timed: Whether to time collectives.
    """

    folder: str
    interval_s: float
    timed: bool


class MeterHeader(msgspec.Struct, frozen=True, tag="header", tag_field="event"):
    """The first line of a process."""

    rank: int
    world_size: int
    time: float
    process: int
    host: str
    command: list[str]
    python: str
    torch: str
    mechanism: str
    backend: str


class MeterInterval(msgspec.Struct, frozen=True, tag="interval", tag_field="event"):
    """Sums from the beginning to ``seconds``; two lines differ by what happened between them.

    Attributes:
        rank: This process's.
        seconds: Since the first process group.
        steps: Steps so far.
        step_seconds: Their mean; None before the second.
        rows: The traffic.
        end: Whether this is the last line.
        error: What ended the process, "" if nothing did.
        audit: What the kernel counted; of the last line.
    """

    rank: int
    seconds: float
    steps: int
    step_seconds: float | None
    rows: tuple[TrafficRow, ...]
    end: bool = False
    error: str = ""
    audit: Audited | None = None
