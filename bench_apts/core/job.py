"""Seeds derived by hashing: every optimizer and every N meets the same data and weights.

What the launcher tells each rank.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

from bench_apts.core.spec import Pruner, Trial


def derive_seed(base: int, role: str, suite: str, repetition: int) -> int:
    """Derives a 63-bit seed from a base seed and what it is for.

    Neither the optimizer nor the number of ranks enters, which makes comparisons paired.

    Args:
        base: The study's base seed.
        role: What it is for: ``"data"`` or ``"init"``, prefixed ``"tune-"`` in tuning so that
            no seed used for selection is ever used for reporting; or a search, by its name.
        suite: The suite's name.
        repetition: The number of the repetition, from 0.
    """
    text = f"{base}/{role}/{suite}/{repetition}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


GRACE_S = 25.0
"""How long after SIGTERM the ranks may take to write a checkpoint; SLURM kills after 30 s."""


class PruningJob(Struct, frozen=True):
    """Where a tuning trial stands in its search, and the rule by which it may be given up.

    Attributes:
        storage: File of Optuna's storage.
        study: Name of the search in it.
        number: The trial's number in the search.
        pruner: Name of the rule.
        evaluations: How many a full trial has.
    """

    storage: str
    study: str
    number: int
    pruner: Pruner
    evaluations: int


class CheckpointJob(Struct, frozen=True):
    """Where a trial's checkpoints lie, and when it writes them besides when it is stopped.

    Attributes:
        folder: The trial's folder of checkpoints.
        every: Samples from one to the next; None for none but the last.
        resume: Samples of the checkpoint that the trial goes on from; None for its beginning.
    """

    folder: str
    every: int | None = None
    resume: int | None = None


class RankJob(Struct, frozen=True):
    """A trial and what its ranks need to know besides.

    Attributes:
        trial: What runs.
        data: Folder of its decoded data.
        events: File of its events.
        pruning: Who may give it up early.
        saving: Its checkpoints; None for none.
        folder: Where the suite's file lies, if it names Python files; else "".
        workers: Processes that read streamed data for each rank.
        stop: File whose appearance asks the ranks to stop.
    """

    trial: Trial
    data: str
    events: str
    pruning: PruningJob | None = None
    saving: CheckpointJob | None = None
    stop: str | None = None
    folder: str = ""
    workers: int = 0
