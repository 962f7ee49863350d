"""What the launcher tells each rank."""

from __future__ import annotations

from msgspec import Struct

from bench_apts.core.spec import Pruner, Trial

GRACE_S = 25.0
"""How long after SIGTERM the ranks may take to write a checkpoint; SLURM kills after 30 s."""


class Pruning(Struct, frozen=True):
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


class Saving(Struct, frozen=True):
    """Where a trial's checkpoints lie, and when it writes them besides when it is stopped.

    Attributes:
        folder: The trial's folder of checkpoints.
        every: Samples from one to the next; None for none but the last.
        resume: Samples of the checkpoint that the trial goes on from; None for its beginning.
    """

    folder: str
    every: int | None = None
    resume: int | None = None


class Job(Struct, frozen=True):
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
    pruning: Pruning | None = None
    saving: Saving | None = None
    stop: str | None = None
    folder: str = ""
    workers: int = 0
