"""What the launcher tells each rank."""

from __future__ import annotations

from msgspec import Struct

from bench_apts.spec import Trial


class Job(Struct, frozen=True):
    """The trial, the folder of its decoded data, and the file that its events go to."""

    trial: Trial
    data: str
    events: str
