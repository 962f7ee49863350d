"""Who is best by one quantity, and whether the trials can tell it from the others.

A box asks several such questions of the same trials. They are judged together, by the one rule of
``stats.verdict``: of studies of equal optimizers at most 5 % name a winner anywhere in a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.stats.bootstrap import Interval
from bench_apts.stats.comparison import Bill, Comparison, compare
from bench_apts.stats.verdict import RULE, Decision, decide, winners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.spec import Seeds
    from bench_apts.stats.noise import Noise
    from bench_apts.stats.verdict import Evidence

    from ..cells import Cell
    from ..findings import Verdict

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

    cell: Cell
    bill: Bill
    seeds: tuple[Seeds, ...]
    counted: bool = False

    @property
    def value(self) -> float:
        """The expected value; infinite where the target was not reached."""
        return self.bill.value


@dataclass(frozen=True)
class Rival:
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
        best: The lowest value; None if nobody reached the target.
        rivals: All others, the lowest first.
        trials: How many trials the optimizers have, all together.
        unlike: In what the trials' environments differ, so that nothing is judged; "" if they
            are alike, or it does not matter.
        won: Whether the best may be called the winner; set by ``judged``.
    """

    best: Entrant | None
    rivals: tuple[Rival, ...]
    trials: int
    unlike: str = ""
    won: bool = False

    @property
    def verdict(self) -> Verdict:
        """What the trials say: one wins, they tell nobody apart, or so few never could."""
        if self.best is None:
            return "none"
        if self.rivals and self.unlike:
            return "not judged"
        if self.won:
            return "clear"
        return ("cannot be told" if any(rival.comparison.least > RULE.alpha
                                        for rival in self.rivals) else "not told apart")

    @property
    def tied(self) -> list[Rival]:
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
            Rival(other, Comparison(_ratio(other, best), None, 1.0, 1.0)) for other in others),
            trials, unlike)
    rivals = [_rival(other, best, noise) for other in others]
    decisions = decide([rival.evidence for rival in rivals])
    return Contest(best, tuple(replace(rival, decision=decision) for rival, decision in zip(
        rivals, decisions, strict=True)), trials)


def judged(contests: Sequence[Contest]) -> list[Contest]:
    """Name the winners of all questions of one box, which are one family."""
    found = winners([[] if each.unlike else [rival.evidence for rival in each.rivals]
                     for each in contests])
    return [replace(each, won=won) for each, won in zip(contests, found, strict=True)]


def words(contested: Contest, show: Callable[[float], str]) -> tuple[str, str]:
    """Writes a contest as choice and detail.

    Args:
        contested: A contest.
        show: Formats a value.
    """
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
        parts = [f"equal within half a percent: {_some(equal)}"] if equal else []
        parts += [f"not told apart: {_some(near)}"] if near else []
        detail = f"Lowest is {label}, {least}; {'; '.join(parts)}."
        if contested.verdict == "cannot be told":
            detail += " So few trials could not tell any two apart."
        return "No clear winner", detail
    second = contested.rivals[0]
    if math.isinf(second.entrant.value):
        detail = f"{least}; no other optimizer reached the target."
    else:
        detail = f"{least}; the runner-up is {_against(second)}."
    return label, detail


def _some(texts: Sequence[str]) -> str:
    """Joins the first few and counts the others."""
    more = [f"{len(texts) - _RIVALS} more"] if len(texts) > _RIVALS else []
    return units.listing([*texts[:_RIVALS], *more])


def _against(rival: Rival) -> str:
    label, (ratio, interval, _, _) = rival.entrant.cell.label, rival.comparison
    if math.isinf(ratio):
        return f"{label}, which did not reach the target in so few trials"
    text = f"{label} at {units.times(ratio)} that"
    if interval is None:
        return f"{text} (one trial, no interval)"
    if interval.low == interval.high:
        return f"{text} (counted, the same in every trial)"
    if math.isinf(interval.high):
        return f"{text} ({units.digits(interval.low)} or more)" if interval.low else (
            f"{text} (an interval without limits)")
    if not interval.low:
        return f"{text} ({units.digits(interval.high)} or less)"
    return f"{text} ({units.digits(interval.low)} to {units.digits(interval.high)})"


def _ratio(other: Entrant, best: Entrant) -> float:
    return other.value / best.value if best.value else math.inf if other.value else 1.0


def _rival(other: Entrant, best: Entrant, noise: Noise | None) -> Rival:
    if other.counted and best.counted:
        ratio = _ratio(other, best)
        return Rival(other, Comparison(ratio, Interval(ratio, ratio), 0.0, 0.0))
    found = compare(other.bill, best.bill, paired=other.seeds == best.seeds)
    fewest = min(len(other.seeds), len(best.seeds))
    return Rival(other, found._replace(ratio=_ratio(other, best)),
                 noise.of_mean(fewest) if noise else 1.0)
