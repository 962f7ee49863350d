"""What the gate found of each comparison, and what follows from all of them.

Counts are the same in every run and must not grow. They are taken per global batch of samples, so
that optimizers are comparable with their own past also where a change alters what a step is.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core.records import train_bytes
from bench_apts.stats.pairwise_comparison import Difference, difference
from bench_apts.stats.trial_costs import outcome
from bench_apts.stats.verdict import Evidence, Rule, decide, least_p, permutation_p

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.records import Eval, TrialRecord
    from bench_apts.regress.gate_trainings import GateCell
    from bench_apts.stats.timing_noise import Slowdown
    from bench_apts.stats.verdict import Verdict

    Pairs = Sequence[tuple[TrialRecord, TrialRecord]]
    """A record of base and one of head for each seed."""

MIN_SEEDS = 3
"""Below, nothing is known of how far seeds scatter."""

QUALITY_SEEDS = 8
"""Pairs that quality is judged by, where head takes another course than base."""

TOLERATED_LOSS = 0.005
"""Loss of quality that does not count, as a share of base's, unless the user says another."""

_RULE = Rule(alpha=0.1, least=1.0)
"""5 % in each direction, of which only one makes the gate fail."""

_ROUNDING = 1e-9  # sums of floats in another order

GateCurve = Literal["bit-identical", "equal", "another course"]
"""Whether training ended in the same weights; ``equal`` in every metric, where no rank holds all
weights and there is no hash of them."""

Clock = Literal["training time", "CPU time"]
"""Wall-clock time of training, or CPU time of the rank that used most."""


class CountChange(NamedTuple):
    """One count of one optimizer, in both trees.

    Attributes:
        name: What is counted.
        base: Of each seed, infinite where the target was missed.
        head: The same.
        exact: Whether it may not grow at all: both take the same course, or it does not depend on
            the seed in the base.
    """

    name: str
    base: tuple[float, ...]
    head: tuple[float, ...]
    exact: bool

    def worse(self, factor: float) -> bool:
        """Whether head needs more.

        Counts that depend on the seed are worse by the rule of ``stats.verdict``, one-sided, and
        if they are by more than ``factor`` larger on average. Three seeds are enough if head needs
        more with every one than base with any.
        """
        if self.exact:
            return any(_beyond(after, before)
                       for before, after in zip(self.base, self.head, strict=True))
        return (self._decided() == "more"
                and statistics.fmean(self.head) > factor * statistics.fmean(self.base))

    def open(self, factor: float) -> bool:
        """Whether head needs more, with too few seeds to tell whether that is chance."""
        return (not self.exact and len(self.base) < MIN_SEEDS
                and _beyond(statistics.fmean(self.head), factor * statistics.fmean(self.base)))

    @property
    def better(self) -> bool:
        """Whether head needs less, by the same rule without a factor."""
        pairs = list(zip(self.base, self.head, strict=True))
        if self.exact:
            return (any(_beyond(before, after) for before, after in pairs)
                    and not any(_beyond(after, before) for before, after in pairs))
        return self._decided() == "less"

    def _decided(self) -> Verdict:
        """Judge the ranks of head over those of base by exchanging labels.

        Seeds are no pairs here: two trees whose courses differ share no luck.
        """
        from scipy.stats import rankdata

        # Ranks, as a seed that missed the target counts as infinite.
        seeds = len(self.base)
        ranks = rankdata([*self.head, *self.base])
        head, base = ([(float(rank),) for rank in side] for side in (ranks[:seeds], ranks[seeds:]))
        evidence = Evidence(
            float(ranks[:seeds].sum() / ranks[seeds:].sum()), None,
            permutation_p(head, base, lambda one, two: one[0] - two[0], paired=False),
            least_p(seeds, seeds, paired=False))
        (decision,) = decide([evidence], _RULE)
        return decision.verdict


class QualityChange(NamedTuple):
    """The suite's metric on validation data at the end of the budget, of both trees.

    Attributes:
        metric: Its name.
        direction: Whether more (``max``) or less (``min``) is better.
        base: Of each seed.
        head: Of the same seeds.
    """

    metric: str
    direction: Literal["max", "min"]
    base: tuple[float, ...]
    head: tuple[float, ...]

    @property
    def difference(self) -> Difference:
        """Head's mean less base's, by pairs of equal seeds."""
        return difference(self.head, self.base, paired=True)

    @property
    def loss(self) -> float:
        """By how much head is worse on average; negative if it is better."""
        return -self.difference.value if self.direction == "max" else self.difference.value

    def worse(self, tolerated: float) -> bool:
        """Whether head is shown to be worse, by more than a share of base's mean.

        The rule is that of ``stats.verdict``, one-sided: interval and p-value of the pairs.
        """
        found = self.difference
        (decision,) = decide([Evidence(found.value, found.interval, found.p, found.least,
                                       neutral=0.0)], _RULE)
        return (decision.verdict == ("less" if self.direction == "max" else "more")
                and self.loss > tolerated * abs(statistics.fmean(self.base)))


class Timing(NamedTuple):
    """A cell's time by one clock, head over base."""

    clock: Clock
    slowdown: Slowdown

    @property
    def unclear(self) -> bool:
        """Whether more than the noise points to a slowdown that could not be shown."""
        return (self.slowdown.verdict == "open"
                and self.slowdown.ratio > self.slowdown.noise)


@dataclass
class GateFinding:
    """One cell, judged.

    Attributes:
        cell: Which one.
        factor: Ratio up to which what scatters does not count as worse.
        course: Whether both trees train alike; None where that cannot be said.
        counts: What was counted in both.
        timings: What was timed; may be empty.
        quality: The metric at the end, where courses differ and there are seeds for it.
        tolerated: Loss of quality that does not count, as a share of base's.
        failed: Why head has no answer where base has one, "" where it has.
        unjudged: Why nothing can be said, "" where something can.
    """

    cell: GateCell
    factor: float
    course: GateCurve | None = None
    counts: list[CountChange] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    quality: QualityChange | None = None
    tolerated: float = TOLERATED_LOSS
    failed: str = ""
    unjudged: str = ""

    @property
    def grown(self) -> list[CountChange]:
        """Count that are worse in head."""
        return [count for count in self.counts if count.worse(self.factor)]

    @property
    def open(self) -> list[CountChange]:
        """Count that grew, of too few seeds to be worse."""
        return [count for count in self.counts if count.open(self.factor)]

    @property
    def slower(self) -> list[Timing]:
        """Clocks by which head is slower."""
        return [t for t in self.timings if t.slowdown.verdict == "slower"]

    @property
    def regressed(self) -> bool:
        """Whether head is worse in anything."""
        return bool(self.failed or self.grown or self.slower or self.lost)

    @property
    def lost(self) -> QualityChange | None:
        """The quality, if head's is worse."""
        found = self.quality
        return found if found and found.worse(self.tolerated) else None

    @property
    def unclear(self) -> bool:
        """Whether something could not be told."""
        return bool(self.unjudged or self.open or any(t.unclear for t in self.timings))


@dataclass(frozen=True)
class GateResult:
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
    findings: tuple[GateFinding, ...]
    notes: tuple[str, ...]
    crashed: str = ""

    @property
    def code(self) -> int:
        """Exit code: 1 for a regression, 2 where something could not be told, else 0."""
        if self.crashed or any(finding.regressed for finding in self.findings):
            return 1
        return 2 if any(finding.unclear for finding in self.findings) else 0


def judge_counts(cell: GateCell, factor: float, pairs: Pairs) -> GateFinding:
    """Judge a cell by what was counted.

    Args:
        cell: The cell.
        factor: Ratio up to which what scatters does not count as worse.
        pairs: Records that have evaluations after the first step.
    """
    lost = [head.uncounted for base, head in pairs if head.uncounted and not base.uncounted]
    return GateFinding(
        cell, factor, gate_curve(pairs), counts(pairs),
        unjudged=f"head does not count its traffic, as base does ({lost[0]})" if lost else "")


def gate_curve(pairs: Pairs) -> GateCurve:
    """Say whether both trees train alike."""
    ends = [(one.end.final_weights_sha256, two.end.final_weights_sha256)
            for one, two in pairs if one.end and two.end]
    if len(ends) == len(pairs) and all(one == two for one, two in ends):
        if all(one for one, _ in ends):
            return "bit-identical"
        if all(_metrics(one) == _metrics(two) for one, two in pairs):
            return "equal"
    return "another course"


def quality(pairs: Pairs) -> QualityChange | None:
    """Return the metric at the end of both trees; None where not all seeds have a finite one."""
    target = pairs[0][0].trial.suite.target
    base, head = _sides(pairs, lambda r: (
        r.evals[-1].validation.get(target.metric, math.nan) if r.evals else math.nan))
    if not all(map(math.isfinite, (*base, *head))):
        return None
    return QualityChange(target.metric, target.direction, base, head)


def counts(pairs: Pairs) -> list[CountChange]:
    """Return counts per global batch in training, and those up to the target, of both trees."""
    same = gate_curve(pairs) != "another course"
    unmetered = any(record.uncounted for pair in pairs for record in pair)
    found = []
    for name, count in _PER_BATCH.items():
        if unmetered and name in ("wire bytes", "collectives"):
            continue
        base, head = _sides(pairs, lambda r, count=count: (  # type: ignore[misc]
            count(r.evals[-1]) * r.trial.batch_size / r.evals[-1].samples))
        if any(base) or any(head):
            found.append(CountChange(name, base, head, same or len(set(base)) == 1 < len(base)))
    for name, currency in (("samples to target", "samples"),
                           ("gradient evaluations to target", "gradient_evaluations")):
        base, head = _sides(pairs, lambda r, key=currency: (  # type: ignore[misc]
            outcome(r).cost[key]))
        if any(map(math.isfinite, (*base, *head))):
            found.append(CountChange(name, base, head, same))
    return found


_PER_BATCH: dict[str, Callable[[Eval], float]] = {
    "wire bytes": lambda e: train_bytes(e.comm),
    "collectives": lambda e: float(sum(t.calls for t in e.comm.get("train", {}).values())),
    "forward passes": lambda e: float(e.forwards),
    "backward passes": lambda e: float(e.backwards),
}


def _sides(pairs: Pairs, value: Callable[[TrialRecord], float]
           ) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(value(one) for one, _ in pairs), tuple(value(two) for _, two in pairs)


def _metrics(record: TrialRecord) -> list[tuple[int, float | None, dict[str, float]]]:
    return [(e.samples, e.train_loss, e.validation) for e in record.evals]


def _beyond(value: float, other: float) -> bool:
    return value > other * (1 + _ROUNDING)
