"""What the ranks of an examination saw of an optimizer, as they write it down.

In MessagePack, because JSON cannot represent infinite numbers, which a method under examination
may produce.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

Stage = Literal[
    "start", "plain", "repeated", "cleared", "resumed", "warmed", "unequal", "convolution", "end"]
"""Parts of an examination: trainings, but for the first and the last one.

``plain`` is a training as it comes. It is ``repeated``, taken with ``.grad`` None before each
step (``cleared``), ``resumed`` from a checkpoint of the repeated one, and taken after a warm-up
that was undone (``warmed``). In ``unequal`` the last rank has wrong targets, and the others four
times the loss.
"""


class StepCounts(Struct, frozen=True, array_like=True):
    """A step's report without its loss."""

    samples: int
    forwards: int
    backwards: int
    total_samples: int | None
    agreed: bool


class PassCounts(Struct, array_like=True):
    """Passes of one rank, and the samples in them."""

    samples: int = 0
    forwards: int = 0
    backwards: int = 0


class SeenTraining(Struct):
    """One training on one rank.

    Attributes:
        stage: Which one.
        begun: Steps that were already taken where it begins.
        parameters: Number of trained parameters.
        losses: Of each step, as reported.
        steps: Of each step, the rest of its report.
        weights: After each step the fingerprint of the parameters that every rank holds whole.
        evaluated: At each evaluation the fingerprints of parameters and buffers likewise.
        values: At each evaluation the mean loss over all samples.
        sent: Of each step the ideal bytes by collective; only in the warmed training.
        reported: Passes as reported, those of evaluations as billed.
        counted: Passes as counted.
        unsaved: Why no checkpoint can be written; "" where one can.
        moved: Names of frozen parameters that changed.
        untied: Whether parameters that were one are two.
    """

    stage: Stage
    begun: int = 0
    parameters: int = 0
    losses: list[float] = []
    steps: list[StepCounts] = []
    weights: list[int] = []
    evaluated: list[tuple[int, int]] = []
    values: list[float] = []
    sent: list[dict[str, float]] = []
    reported: PassCounts = msgspec.field(default_factory=PassCounts)
    counted: PassCounts = msgspec.field(default_factory=PassCounts)
    unsaved: str = ""
    moved: list[str] = []
    untied: bool = False


class RankLog(Struct):
    """All that one rank saw.

    Attributes:
        stage: What it was doing last; ``end`` once it is done.
        building: Whether it was in ``build``.
        trainings: In their order; the last one may be unfinished.
        changed: What of the process's global state the optimizer changed, in words.
        reseeded: Random number generators that ``build`` seeded.
        left: Threads and processes that outlive the trainings.
        audited: Whether the next two are known.
        bytes_complaints: Where the kernel's counters contradict the meter.
        channel_complaints: Other ways by which ranks exchanged data.
        unaudited: Why bytes were not audited; "" where they were.
    """

    stage: Stage = "start"
    building: bool = False
    trainings: list[SeenTraining] = []
    changed: list[str] = []
    reseeded: list[str] = []
    left: list[str] = []
    audited: bool = False
    bytes_complaints: list[str] = []
    channel_complaints: list[str] = []
    unaudited: str = ""

    def training(self, stage: Stage) -> SeenTraining | None:
        """Return a training that was finished, or None."""
        if stage == self.stage:
            return None
        return next((each for each in self.trainings if each.stage == stage), None)


def log_file(events: Path, rank: int) -> Path:
    """Return the file that a rank writes its log to."""
    return events.with_name(f"{events.name}.{rank}")


def write_log(file: Path, log: RankLog) -> None:
    """Write a log, in place of an earlier one."""
    file.write_bytes(msgspec.msgpack.encode(log))


def read_log(file: Path) -> RankLog:
    """Return a log; an empty one where there is none, or it is incomplete."""
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=RankLog)
    except (OSError, msgspec.DecodeError):
        return RankLog()
