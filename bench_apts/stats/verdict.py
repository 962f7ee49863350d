"""When two results are called different: the one rule of every box, star, ranking and gate.

A difference is claimed where all of this holds (docs/statistics.md, "One rule"):

1. the p-value, corrected by Holm for all comparisons of its family, is at most alpha;
2. the interval of the effect excludes "no difference";
3. the effect is beyond what equal trials differ by on this machine, in the mean of as many trials;
4. the effect is large enough to matter.

Otherwise it says which of two it is: the trials do not tell the two apart, or so few trials never
could, whatever they had shown.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.expected_cost import Floats
    from bench_apts.stats.intervals import Interval

    Statistic = Callable[[Floats, Floats], Floats]

MOST_PERMUTATIONS = 4096
"""Exchanges of labels up to which all are tried; of more, so many are drawn."""

PERMUTATION_SEED = 20_240

_ROUNDING = 1e-9

Verdict = Literal["more", "less", "not told apart", "cannot be told"]


class Rule(NamedTuple):
    """Parameters of the rule.

    Attributes:
        alpha: Chance of any false claim that is accepted, over all comparisons of the family.
        least: Smallest ratio that matters, at least 1. 1 for differences.
    """

    alpha: float = 0.05
    least: float = 1.005


RULE = Rule()


class Evidence(NamedTuple):
    """What trials say of one effect.

    Attributes:
        effect: A ratio, or a difference of means.
        interval: Of the effect; None for fewer than two trials, or where the p-value alone
            decides (an exact test of counts).
        p: Two-sided p-value of no effect, not corrected.
        least_p: Smallest p-value that so many trials can have; 0 if there is no such limit.
        noise: Ratio that means of as many equal trials differ by; 1 where there is none.
        neutral: The effect of no difference: 1 for ratios, 0 for differences.
    """

    effect: float
    interval: Interval | None
    p: float
    least_p: float = 0.0
    noise: float = 1.0
    neutral: float = 1.0

    def beyond(self, least: float = 1.0) -> Literal["more", "less", ""]:
        """Say on which side of no difference the interval, and the effect beyond noise, lie.

        Args:
            least: Smallest ratio that matters; ignored for differences.
        """
        low, high = self.interval or (self.effect, self.effect)
        if self.neutral == 1.0:
            bar = max(self.noise, least)
            return ("more" if low > 1.0 and self.effect > bar
                    else "less" if high < 1.0 and self.effect * bar < 1.0 else "")
        return "more" if low > self.neutral else "less" if high < self.neutral else ""


class Decision(NamedTuple):
    """What may be said of one effect.

    Attributes:
        adjusted: The p-value after Holm's correction for the family.
        verdict: ``more`` or ``less`` where a difference may be claimed.
    """

    adjusted: float
    verdict: Verdict

    @property
    def differs(self) -> bool:
        """Whether a difference may be claimed."""
        return self.verdict in ("more", "less")


def decide(family: Sequence[Evidence], rule: Rule = RULE) -> list[Decision]:
    """Judge all comparisons of a family.

    A comparison that its few trials could never decide alone is no member of the family: it must
    not make the others stricter.

    Args:
        family: All that is compared in one place: a ranking, a command, a decision box.
        rule: Parameters.

    Returns:
        A decision for each, in the same order.
    """
    found = [Decision(1.0, "cannot be told")] * len(family)
    tested = [index for index, each in enumerate(family) if each.least_p <= rule.alpha]
    adjusted = holm([family[index].p for index in tested])
    best = holm([family[index].least_p for index in tested])
    for index, p, at_best in zip(tested, adjusted, best, strict=True):
        side = family[index].beyond(rule.least) if p <= rule.alpha else ""
        found[index] = Decision(p, side or (
            "cannot be told" if at_best > rule.alpha else "not told apart"))
    return found


def winners(contests: Sequence[Sequence[Evidence]], rule: Rule = RULE) -> list[bool]:
    """Say for each contest whether its first competitor may be called the winner.

    It wins if its difference to *every* rival may be claimed. Such a claim is false only if some
    rival is equal, so that within one contest each p-value is compared with alpha as it is (an
    intersection-union test; Berger, "Multiparameter hypothesis testing and acceptance sampling",
    1982); Holm's correction is for the number of contests.

    Args:
        contests: For each contest the evidence of each rival over the first; no contest without
            a rival has a winner.
        rule: Parameters; alpha is the chance of any false winner in all contests.
    """
    played = [index for index, rivals in enumerate(contests)
              if rivals and max(each.least_p for each in rivals) <= rule.alpha]
    adjusted = holm([max(each.p for each in contests[index]) for index in played])
    found = [False] * len(contests)
    for index, p in zip(played, adjusted, strict=True):
        found[index] = p <= rule.alpha and all(
            each.beyond(rule.least) == "more" for each in contests[index])
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for a family of comparisons: Holm's step-down method (1979).

    Comparisons whose adjusted value is at most α keep the chance of any false claim below α,
    however they depend on each other.

    Args:
        p_values: Of all comparisons that were made, shape ``(m,)``, each in 0 … 1.

    Returns:
        The adjusted values in the order given: the k-th smallest times ``m − k + 1``, made
        monotone, at most 1.

    Raises:
        ValueError: A value is out of its range.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must be in 0 … 1, got {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def permutation_p(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]],
                  statistic: Statistic, *, paired: bool) -> float:
    """Return the two-sided p-value of equal distributions, by exchanging labels.

    If two optimizers are equal, it is chance which of the trials carry whose label. The p-value is
    the share of all ways to assign the labels that look at least as different as what was measured
    (Fisher, "The design of experiments", 1935); exact for any distribution and number of trials.

    Args:
        first: What was measured in each trial of one optimizer, shape ``(n1, k)``.
        second: The same of the other, shape ``(n2, k)``.
        statistic: Says how different two samples are, in either direction, of their sums over
            trials: arrays of shape ``(k, exchanges)`` to values of shape ``(exchanges,)``.
        paired: Whether the i-th trials of both are a pair.

    Raises:
        ValueError: Pairs lack a partner.
    """
    one: Floats = np.asarray(first, dtype=np.float64)
    two: Floats = np.asarray(second, dtype=np.float64)
    if paired and len(one) != len(two):
        raise ValueError("paired trials must be equally many")
    if not len(one) or not len(two):
        return 1.0
    if paired:
        masks = _flips(len(one))
        # The sum of the first with some pairs exchanged.
        mine = one.sum(axis=0)[:, None] + (two - one).T @ masks.T
    else:
        masks = _choices(len(one), len(two))
        mine = np.concatenate([one, two]).T @ masks.T
    theirs = (one.sum(axis=0) + two.sum(axis=0))[:, None] - mine
    found = np.abs(statistic(mine, theirs))
    # Sums in another order round differently: equal statistics must not pass for smaller ones.
    scale = _ROUNDING * max(1.0, float(found[0]))
    return float((found >= found[0] - scale).mean())


def least_p(first: int, second: int, *, paired: bool) -> float:
    """Return the smallest p-value that so many trials can have.

    ``2^(1 − n)`` for n pairs, ``2/C(n1 + n2, n1)`` for unpaired ones, as both directions count;
    1 where either has fewer than two.
    """
    if min(first, second) < 2:
        return 1.0
    return 2.0 ** (1 - first) if paired else 2.0 / math.comb(first + second, first)


@lru_cache(maxsize=64)
def _flips(pairs: int) -> Floats:
    """Return which pairs are exchanged, shape ``(exchanges, pairs)``; none in the first row."""
    if 2**pairs <= MOST_PERMUTATIONS:
        return np.array(list(itertools.product((0.0, 1.0), repeat=pairs)))
    generator = np.random.default_rng(PERMUTATION_SEED)
    masks = generator.integers(0, 2, (MOST_PERMUTATIONS, pairs)).astype(np.float64)
    masks[0] = 0.0
    return masks


@lru_cache(maxsize=64)
def _choices(first: int, second: int) -> Floats:
    """Return which trials carry the first label, ``(exchanges, n1 + n2)``; the true ones first."""
    every = first + second
    if math.comb(every, first) <= MOST_PERMUTATIONS:
        chosen = list(itertools.combinations(range(every), first))  # the true ones come first
    else:
        generator = np.random.default_rng(PERMUTATION_SEED)
        chosen = [tuple(range(first)), *(tuple(generator.permutation(every)[:first])
                                         for _ in range(MOST_PERMUTATIONS - 1))]
    masks = np.zeros((len(chosen), every))
    for row, trials in enumerate(chosen):
        masks[row, list(trials)] = 1.0
    return masks
