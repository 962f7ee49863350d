"""What a rank receives to run a trial, and the seeds that are derived for it."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from bench_apts.core.spec import Pruner, Trial


def derive_seed(base: int, role: str, suite: str, repetition: int) -> int:
    """Derive a 63-bit seed from a base seed and its purpose.

    Neither the optimizer nor the number of ranks enters: every optimizer and every N gets the same
    data and weights, which makes comparisons paired.

    Args:
        base: The study's base seed.
        role: Its purpose: ``"data"`` or ``"init"``, prefixed ``"tune-"`` in tuning so that no
            seed used for selection is ever used for reporting; or the name of a search.
        suite: The suite's name.
        repetition: The number of the repetition, from 0.
    """
    text = f"{base}/{role}/{suite}/{repetition}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


TRAINING = "bench_apts.trial.trial_run:main"
EXAMINATION = "bench_apts.trial.examination_run:main"
"""What a rank may run. It is found by name, as a launcher knows nothing of trials."""

GRACE_S = 25.0
"""How long after SIGTERM the ranks may take to write a checkpoint; SLURM kills after 30 s."""


class PruningJob(Struct, frozen=True):
    """A tuning trial's place in its search, and the rule by which it may be pruned.

    Attributes:
        storage: File of Optuna's storage.
        study: Name of the search in it.
        number: The trial's number in the search.
        pruner: Name of the rule.
        evaluations: Number of evaluations in a full trial.
    """

    storage: str
    study: str
    number: int
    pruner: Pruner
    evaluations: int


class CheckpointJob(Struct, frozen=True):
    """Where and when a trial writes checkpoints, in addition to the one when it is stopped.

    Attributes:
        folder: The trial's folder of checkpoints.
        every: Samples between checkpoints; None for none but the last.
        resume: Samples of the checkpoint that the trial resumes; None to start from the beginning.
    """

    folder: str
    every: int | None = None
    resume: int | None = None


class RankJob(Struct, frozen=True):
    """A trial, and what else its ranks need to run it.

    Attributes:
        trial: What runs.
        data: Folder of its decoded data.
        events: File of its events.
        pruning: How it may be pruned; None for a trial that is not.
        saving: Its checkpoints; None for none.
        stop: File whose appearance asks the ranks to stop.
        folder: The folder of the suite's file if that names Python files; else "".
        workers: Processes that read streamed data for each rank.
        limit_s: Seconds after which the launcher kills the trial; 0 where the job does not say.
        gpus: What ``CUDA_VISIBLE_DEVICES`` names to this node's ranks; empty for all that the
            command sees.
        program: The function to call, ``TRAINING`` or ``EXAMINATION``.
    """

    trial: Trial
    data: str
    events: str
    pruning: PruningJob | None = None
    saving: CheckpointJob | None = None
    stop: str | None = None
    folder: str = ""
    workers: int = 0
    limit_s: float = 0.0
    gpus: tuple[str, ...] = ()
    program: str = TRAINING
