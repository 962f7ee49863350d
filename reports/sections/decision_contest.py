"""Who is best by one quantity, and whether the trials can tell it from the others.

Quantities are bills of R trainings, modelled times on a network, and memory. A box asks several
such questions of the same trials. They are judged together, by the one rule of ``stats.verdict``:
of studies of equal optimizers at most 5 % name a winner anywhere in a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports.cells import memory
from bench_apts.stats.intervals import Interval
from bench_apts.stats.modelled_training import BatchScaling, project, recorded_work
from bench_apts.stats.network_model import COLLECTIVES, Interconnect
from bench_apts.stats.pairwise_comparison import Bill, Comparison, compare
from bench_apts.stats.verdict import RULE, Decision, decide, winners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Seeds
    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.table import DecisionVerdict
    from bench_apts.reports.tuning_pools import Pool
    from bench_apts.stats.network_model import Fabric
    from bench_apts.stats.timing_noise import Noise
    from bench_apts.stats.verdict import Evidence

_UNDECIDED = Decision(1.0, "cannot be told")

_RIVALS = 3
"""Rivals that are named one by one where the trials cannot tell."""


@dataclass(frozen=True)
class Entrant:
    """One optimizer's bill in a quantity of which less is better.

    Attributes:
        cell: Whose it is.
        bill: What the quantity is worked out of.
        seeds: Of the trials behind it; equal ones make pairs.
        counted: Whether the quantity is a count that no chance enters, the same in every trial.
    """

    cell: ReportCell
    bill: Bill
    seeds: tuple[Seeds, ...]
    counted: bool = False

    @property
    def value(self) -> float:
        """The expected value; infinite where the target was not reached."""
        return self.bill.value


@dataclass(frozen=True)
class ContestRival:
    """Another optimizer's value over that of the best.

    Attributes:
        entrant: Whose.
        comparison: The ratio, at least 1, with its interval; p is not corrected.
        noise: Ratio by which means of as many equal trials differ.
        decision: What may be claimed, corrected for the rivals of this contest.
    """

    entrant: Entrant
    comparison: Comparison
    noise: float = 1.0
    decision: Decision = _UNDECIDED

    @property
    def apart(self) -> bool:
        """Whether it may be claimed that the best needs less."""
        return self.decision.verdict == "more"

    @property
    def evidence(self) -> Evidence:
        """The comparison as the rule takes it."""
        return self.comparison.evidence(self.noise)


@dataclass(frozen=True)
class Contest:
    """A ranking by one quantity.

    Attributes:
        best: The lowest value; None if no optimizer reached the target.
        rivals: All others, the lowest first.
        trials: How many trials the optimizers have, all together.
        unlike: In what the trials' environments differ, so that nothing is judged; "" if they
            are alike, or it does not matter.
        won: Whether the best may be called the winner; set by ``judge_contests``.
    """

    best: Entrant | None
    rivals: tuple[ContestRival, ...]
    trials: int
    unlike: str = ""
    won: bool = False

    @property
    def verdict(self) -> DecisionVerdict:
        """What the trials say: one wins, none can be told apart, or they are too few to tell."""
        if self.best is None:
            return "none"
        if self.rivals and self.unlike:
            return "not judged"
        if self.won:
            return "clear"
        return ("cannot be told" if any(rival.comparison.least > RULE.alpha
                                        for rival in self.rivals) else "not told apart")

    @property
    def tied(self) -> list[ContestRival]:
        """Rivals that the trials do not tell from the best."""
        return [rival for rival in self.rivals if not rival.apart]


def contest(entrants: Sequence[Entrant], noise: Noise | None = None, unlike: str = "") -> Contest:
    """Find the best and compare every other with it.

    Args:
        entrants: All that were run.
        noise: How far equal trials differ in this quantity; None where they do not.
        unlike: As in ``Contest``.
    """
    ordered = sorted(entrants, key=lambda entrant: entrant.value)
    trials = sum(len(entrant.seeds) for entrant in ordered)
    if not ordered or math.isinf(ordered[0].value):
        return Contest(None, (), trials)
    best, *others = ordered
    if unlike:
        return Contest(best, tuple(
            ContestRival(other, Comparison(_ratio(other, best), None, 1.0, 1.0))
            for other in others), trials, unlike)
    rivals = [_rival(other, best, noise) for other in others]
    decisions = decide([rival.evidence for rival in rivals])
    return Contest(best, tuple(replace(rival, decision=decision) for rival, decision in zip(
        rivals, decisions, strict=True)), trials)


def judge_contests(contests: Sequence[Contest]) -> list[Contest]:
    """Name the winners of all questions of one box, which are one family."""
    found = winners([[] if each.unlike else [rival.evidence for rival in each.rivals]
                     for each in contests])
    return [replace(each, won=won) for each, won in zip(contests, found, strict=True)]


def contest_words(contested: Contest, show: Callable[[float], str]) -> tuple[str, str]:
    """Return a contest's choice and detail; ``show`` formats a value."""
    if contested.best is None:
        return "None", ("No optimizer reached the target." if contested.trials
                        else "Nothing has been run to tell.")
    label, least = contested.best.cell.label, show(contested.best.value)
    if not contested.rivals:
        return f"Only {label}", f"{least}; nothing else was run to compare it."
    if contested.verdict == "not judged":
        return "Not judged", (f"Lowest on record is {label}, {least}, but trials differ in "
                              f"{contested.unlike}.")
    if contested.verdict != "clear":
        # All rivals may be apart here and still the lead not be certain over the whole box.
        tied = contested.tied or contested.rivals
        equal = [r.entrant.cell.label for r in tied if r.comparison.ratio < RULE.least]
        near = [_against(r) for r in tied if r.comparison.ratio >= RULE.least]
        parts = [f"{said}: {_some(who)}" for said, who in (
            ("equal within half a percent", equal), ("not told apart", near)) if who]
        few = (" So few trials could not tell any two apart."
               if contested.verdict == "cannot be told" else "")
        return "No clear winner", f"Lowest is {label}, {least}; {'; '.join(parts)}.{few}"
    second = contested.rivals[0]
    if math.isinf(second.entrant.value):
        return label, f"{least}; no other optimizer reached the target."
    return label, f"{least}; the runner-up is {_against(second)}."


def brief_words(contested: Contest, show: Callable[[float], str]) -> str:
    """Return the detail of ``contest_words`` for a cell of a table: the best and one rival."""
    if contested.best is None or not contested.rivals or contested.verdict == "not judged":
        return contest_words(contested, show)[1]
    label, least = contested.best.cell.label, show(contested.best.value)
    if contested.verdict == "clear":
        return f"{least}; next: {_against(contested.rivals[0])}"
    tied = contested.tied or contested.rivals
    equal = [r.entrant.cell.label for r in tied if r.comparison.ratio < RULE.least]
    near = [rival for rival in tied if rival.comparison.ratio >= RULE.least]
    said = [f"equal within half a percent: {_some(equal)}"] if equal else []
    if near:
        doubt = ("not told apart" if contested.verdict == "not told apart"
                 else "too few trials to tell")
        more = f" and {len(near) - 1} more" if len(near) > 1 else ""
        said.append(f"{doubt}: {_against(near[0])}{more}")
    return "; ".join([f"lowest: {label}, {least}", *said])


def _some(texts: Sequence[str]) -> str:
    """Join the first few and count the others."""
    more = [f"{len(texts) - _RIVALS} more"] if len(texts) > _RIVALS else []
    return units.listing([*texts[:_RIVALS], *more])


def _against(rival: ContestRival) -> str:
    label, (ratio, interval, _, _) = rival.entrant.cell.label, rival.comparison
    if math.isinf(ratio):
        return f"{label}, which did not reach the target in so few trials"
    if interval is None:
        limits = "one trial, no interval"
    elif interval.low == interval.high:
        limits = "counted, the same in every trial"
    elif math.isinf(interval.high):
        limits = (f"{units.digits(interval.low)} or more" if interval.low
                  else "an interval without limits")
    else:
        limits = (f"{units.digits(interval.low)} to {units.digits(interval.high)}" if interval.low
                  else f"{units.digits(interval.high)} or less")
    return f"{label} at {units.times(ratio)} that ({limits})"


def _ratio(other: Entrant, best: Entrant) -> float:
    return other.value / best.value if best.value else math.inf if other.value else 1.0


def _rival(other: Entrant, best: Entrant, noise: Noise | None) -> ContestRival:
    if other.counted and best.counted:
        ratio = _ratio(other, best)
        return ContestRival(other, Comparison(ratio, Interval(ratio, ratio), 0.0, 0.0))
    found = compare(other.bill, best.bill, paired=other.seeds == best.seeds)
    fewest = min(len(other.seeds), len(best.seeds))
    return ContestRival(other, found._replace(ratio=_ratio(other, best)),
                        noise.of_mean(fewest) if noise else 1.0)


def by_trainings(pool: Pool, trainings: int) -> Entrant | None:
    """Return an entrant by the expected bill of R trainings.

    At R = 1 it is the expected cost, the ERT of its draws; else ``Pool.bill``.

    Args:
        pool: Its trials.
        trainings: R, at least 1.

    Returns:
        None where the frozen configuration was not trained again on fresh seeds.
    """
    cell = pool.cell
    if trainings == 1:
        return _entrant(cell, cell.draws, Bill(pool.spent, pool.cost))
    return _entrant(cell, cell.seeds, pool.bill.bill(trainings)) if pool.bill else None


def by_network(cell: ReportCell, fabric: Fabric, alone: float) -> Entrant:
    """Return an entrant by the expected modelled time to the target, all its draws billed.

    Args:
        cell: At N = 2 or more.
        fabric: What connects all ranks.
        alone: Seconds in which one rank alone computes a sample.
    """
    spent, cost = [], []
    for record in cell.draws:
        done = recorded_work(record, alone)
        if done is None:  # it took no step, so there is nothing to bill
            spent.append(0.0)
            cost.append(math.inf)
            continue
        found = project(done, done.ranks, BatchScaling.strong, Interconnect(fabric))
        assert found is not None  # the minibatch is the recorded one
        spent.append(found.steps * found.step_s)
        cost.append(found.to_target_s)
    return _entrant(cell, cell.draws, Bill(spent, cost))


def projectable(cell: ReportCell) -> bool:
    """Say whether the draws' traffic was counted and consists of collectives with a model."""
    return not any(record.uncounted for record in cell.draws) and not {
        name for record in cell.draws for event in record.evals[-1:]
        for name in event.comm.get("train", {})}.difference(COLLECTIVES)


def by_memory(cell: ReportCell) -> Entrant:
    """Return an entrant by the mean over seeds of the memory of a rank.

    Infinite where the median seed missed the target: to need little and fail is no answer.
    """
    peaks = [float(memory(record)) for record in cell.seeds]
    reached = all(peaks) and math.isfinite(cell.to_target("train_s").median)
    # The mean of the peaks: every seed "reaches the target" at its peak, or none does.
    bill = Bill(peaks, peaks if reached else [math.inf] * len(peaks))
    # Bytes of tensors are counted, and depend on no seed; what a gauge says scatters.
    counted = reached and len(set(peaks)) == 1 and all(r.trial.device == "cpu" for r in cell.seeds)
    return replace(_entrant(cell, cell.seeds, bill), counted=counted)


def _entrant(cell: ReportCell, records: Sequence[TrialRecord], bill: Bill) -> Entrant:
    return Entrant(cell, bill, tuple(record.trial.seeds for record in records))
