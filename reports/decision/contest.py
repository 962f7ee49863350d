"""Who is best by one quantity, and whether the data can tell it from the others.

Each rival's expected value over that of the best is bootstrapped as in ``stats.comparison``, in
pairs where the trials share their seeds; Holm's correction is over all rivals of one contest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.stats.bootstrap import SEED
from bench_apts.stats.comparison import Comparison, judged, least_p, stars

from .. import units
from ..findings import ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.spec import Seeds
    from bench_apts.stats.bootstrap import Floats

    from ..cells import Cell
    from ..findings import Verdict

_LEAST = 1.005
"""Ratio below which a lead, however certain, is of no use to anybody."""

_RIVALS = 3
"""Rivals that are named one by one where the data cannot tell."""


@dataclass(frozen=True)
class Entrant:
    """One optimizer's expected value of a quantity of which less is better.

    Attributes:
        cell: Whose it is.
        value: Infinite where the target was not reached.
        seeds: Of the trials behind it; equal ones make pairs.
        resample: Values of resamples for a seed of the generator, shape ``(B,)``; None for fewer
            than two trials.
    """

    cell: Cell
    value: float
    seeds: tuple[Seeds, ...]
    resample: Callable[[int], Floats | None]


class Rival(NamedTuple):
    """Another optimizer's value over that of the best.

    Attributes:
        entrant: Whose.
        comparison: The ratio, at least 1, with its interval; p is not corrected.
        apart: Whether the interval excludes 1 and the ratio exceeds the noise, and half a
            percent.
        star: Whether that holds after Holm's correction, too.
    """

    entrant: Entrant
    comparison: Comparison
    apart: bool
    star: bool


@dataclass(frozen=True)
class Contest:
    """A ranking by one quantity.

    Attributes:
        best: The lowest value; None if nobody reached the target.
        rivals: All others, the lowest first.
        fewest: Trials of the optimizer that has the fewest; 0 if there is none.
        unlike: In what the trials' environments differ, so that nothing is judged; "" if they
            are alike, or it does not matter.
    """

    best: Entrant | None
    rivals: tuple[Rival, ...]
    fewest: int
    unlike: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the best leads beyond all intervals, does so with too few trials, or not."""
        if self.best is None:
            return "none"
        if self.rivals and self.unlike:
            return "not judged"
        if not self.rivals or self.tied:
            return "unclear"
        sure = all(rival.star for rival in self.rivals) and self.fewest >= ENOUGH
        return "clear" if sure else "tentative"

    @property
    def tied(self) -> list[Rival]:
        """Rivals that the data cannot tell from the best."""
        return [rival for rival in self.rivals if not rival.apart]


def contest(entrants: Sequence[Entrant], noise: float = 1.0, unlike: str = "") -> Contest:
    """Finds the best and compares every other with it.

    Args:
        entrants: All that were run.
        noise: Ratio by which equal trials differ, which no lead may undercut.
        unlike: As in ``Contest``.
    """
    ordered = sorted(entrants, key=lambda entrant: entrant.value)
    fewest = min((len(entrant.seeds) for entrant in ordered), default=0)
    if not ordered or math.isinf(ordered[0].value):
        return Contest(None, (), fewest)
    best, *others = ordered
    if unlike:
        return Contest(best, tuple(
            Rival(other, Comparison(_ratio(other, best), None, 1.0), False, False)
            for other in others), fewest, unlike)
    found = [_compare(other, best) for other in others]
    return Contest(best, tuple(
        Rival(other, comparison, _apart(comparison, noise), star and _apart(comparison, noise))
        for other, comparison, star in zip(others, found, stars(found), strict=True)), fewest)


def words(contested: Contest, show: Callable[[float], str]) -> tuple[str, str]:
    """Writes a contest as choice and detail.

    Args:
        contested: A contest.
        show: Formats a value.
    """
    if contested.best is None:
        return "None", ("No optimizer reached the target." if contested.fewest
                        else "Nothing has been run to tell.")
    label, least = contested.best.cell.label, show(contested.best.value)
    if not contested.rivals:
        return f"Only {label}", f"{least}; nothing else was run to compare it."
    if contested.verdict == "not judged":
        return "Not judged", (f"Lowest on record is {label}, {least}, but trials differ in "
                              f"{contested.unlike}.")
    if contested.verdict == "unclear":
        tied = contested.tied
        equal = [r.entrant.cell.label for r in tied if r.comparison.ratio < _LEAST]
        near = [_against(r) for r in tied if r.comparison.ratio >= _LEAST]
        parts = [f"equal within half a percent: {_some(equal)}"] if equal else []
        parts += [f"not told apart: {_some(near)}"] if near else []
        return "No clear winner", f"Lowest is {label}, {least}; {'; '.join(parts)}."
    second = contested.rivals[0]
    if math.isinf(second.entrant.value):
        detail = f"{least}; no other optimizer reached the target."
    else:
        detail = f"{least}; the runner-up is {_against(second)}."
    if contested.verdict == "tentative":
        detail += " A first indication: too few trials."
    return label, detail


def _some(texts: Sequence[str]) -> str:
    """Joins the first few and counts the others."""
    more = [f"{len(texts) - _RIVALS} more"] if len(texts) > _RIVALS else []
    return units.listing([*texts[:_RIVALS], *more])


def _against(rival: Rival) -> str:
    label, (ratio, interval, _) = rival.entrant.cell.label, rival.comparison
    if math.isinf(ratio):
        return f"{label}, which did not reach the target in so few trials"
    text = f"{label} at {units.times(ratio)} that"
    if interval is None:
        return f"{text} (one trial, no interval)"
    if math.isinf(interval.high):
        return f"{text} ({units.digits(interval.low)} or more)" if interval.low else (
            f"{text} (an interval without limits)")
    if not interval.low:
        return f"{text} ({units.digits(interval.high)} or less)"
    return f"{text} ({units.digits(interval.low)} to {units.digits(interval.high)})"


def _apart(comparison: Comparison, noise: float) -> bool:
    return comparison.differs and comparison.ratio > max(noise, _LEAST)


def _ratio(other: Entrant, best: Entrant) -> float:
    return other.value / best.value if best.value else math.inf if other.value else 1.0


def _compare(other: Entrant, best: Entrant) -> Comparison:
    paired = other.seeds == best.seeds
    # The same seed draws the same repetitions, which is what makes them pairs.
    one, base = other.resample(SEED), best.resample(SEED if paired else SEED + 1)
    ratio = _ratio(other, best)
    if one is None or base is None:
        return Comparison(ratio, None, 1.0)
    return judged(ratio, one, base, least_p(len(other.seeds), len(best.seeds), paired=paired))
