"""What the gate found of one comparison, and what follows from all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from bench_apts.regress.gate.counts import Count, Course
    from bench_apts.regress.gate.runs import Cell
    from bench_apts.stats.slowdown import Slowdown

Clock = Literal["training time", "CPU time"]


class Timing(NamedTuple):
    """A cell's time by one clock.

    Attributes:
        clock: ``training time`` is wall-clock time of training, ``CPU time`` that of the rank that
            used most.
        slowdown: Head over base.
    """

    clock: Clock
    slowdown: Slowdown

    @property
    def unclear(self) -> bool:
        """Whether more than the noise points to a slowdown that could not be shown."""
        return (self.slowdown.verdict == "open"
                and self.slowdown.ratio > self.slowdown.noise)


@dataclass
class Finding:
    """One optimizer on one suite at one world size, judged.

    Attributes:
        cell: Which one.
        factor: Ratio up to which what scatters does not count as worse.
        course: Whether both trees train alike; None where that cannot be said.
        counts: What was counted in both.
        timings: What was timed; may be empty.
        failed: Why head came to no answer where base did, "" where it did.
        unjudged: Why nothing can be said, "" where something can.
    """

    cell: Cell
    factor: float
    course: Course | None = None
    counts: list[Count] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    failed: str = ""
    unjudged: str = ""

    @property
    def grown(self) -> list[Count]:
        """Counts that are worse in head."""
        return [count for count in self.counts if count.worse(self.factor)]

    @property
    def open(self) -> list[Count]:
        """Counts that grew, of too few seeds to be worse."""
        return [count for count in self.counts if count.open(self.factor)]

    @property
    def slower(self) -> list[Timing]:
        """Clocks by which head is slower."""
        return [t for t in self.timings if t.slowdown.verdict == "slower"]

    @property
    def regressed(self) -> bool:
        """Whether head is worse in anything."""
        return bool(self.failed or self.grown or self.slower)

    @property
    def unclear(self) -> bool:
        """Whether something could not be told."""
        return (bool(self.unjudged or self.open)
                or any(timing.unclear for timing in self.timings))


@dataclass(frozen=True)
class Judged:
    """A finished gate.

    Attributes:
        base: What head was compared with.
        head: What was judged.
        findings: In the order of the trials.
        notes: What the numbers cannot say.
        crashed: Why head does not run at all, "" where it does.
    """

    base: str
    head: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    crashed: str = ""

    @property
    def code(self) -> int:
        """Exit code: 1 for a regression, 2 where something could not be told, else 0."""
        if self.crashed or any(finding.regressed for finding in self.findings):
            return 1
        return 2 if any(finding.unclear for finding in self.findings) else 0
