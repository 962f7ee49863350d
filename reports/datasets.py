"""What is to be said of a study's data: whose they are, and whether trials waited for them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.suites.sources import FINGERPRINTS

if TYPE_CHECKING:
    from bench_apts.core.store import StudyFile

    from .gather import Gathered

_MUCH_WAITING = 0.1
"""Share of the time between evaluations that counts as a long wait for data."""


def named(name: str, sha256: str, file: StudyFile) -> str:
    """Return a data set's name, with its fingerprint where it is not the published one.

    Args:
        name: As the suite has it.
        sha256: The fingerprint of what the trials ran on.
        file: The study, which says what was not shown to be published.
    """
    if name not in (file.unpublished or ()):
        return name
    words = "not" if name in FINGERPRINTS else "not known to be"
    return f"{name} (data {sha256[:6]}…, {words} the published files)"


def caveats(gathered: Gathered) -> list[tuple[str, str]]:
    """Return titles and texts of what a reader must know of the data."""
    return [*_unpublished(gathered), *_waiting(gathered)]


def _unpublished(gathered: Gathered) -> list[tuple[str, str]]:
    data = sorted({(r.trial.suite.data.name, r.trial.data_sha256) for r in gathered.trials})
    found = [(name, named(name, sha256, gathered.file)) for name, sha256 in data]
    strange = [called for name, called in found if called != name]
    if not strange:
        return []
    return [("Other data under a known name",
             f"The trials ran on {units.listing(strange)}. Their results are not comparable with "
             "those on the published files; the fingerprint alone says which samples they are.")]


def _waiting(gathered: Gathered) -> list[tuple[str, str]]:
    """Name the suites whose trials waited for data for a good part of their training."""
    shares: dict[str, list[float]] = defaultdict(list)
    for record in gathered.trials:
        ledger = record.end.ledger if record.end else {}
        if ledger.get("data_s"):
            shares[record.trial.suite.name].append(
                ledger["data_s"] / (ledger["data_s"] + ledger.get("train_s", 0.0)))
    slow = {suite: statistics.median(found) for suite, found in shares.items()}
    return [("Trials waited for data",
             f"Of the time between the evaluations on {suite}, {units.percent(share, 0)} was "
             "spent waiting for samples to be read (median trial). It is no training time: costs "
             "in seconds are those of a machine whose data is there in time. More workers wait "
             "less.")
            for suite, share in slow.items() if share >= _MUCH_WAITING]
