"""How far times scatter on a machine, by A/A pairs; whether new code is slower beyond that.

A/A pairs are two runs of the same trial (docs/measurement.md, 2). To compare code, runs come in
blocks of four, old-new-new-old or new-old-old-new, so that a steady drift of the machine cancels.
Each block gives two ratios of new to old and two of equal code, which say how far times scatter at
that hour on that machine.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np

from bench_apts.stats.intervals import Interval, percentiles, resampled
from bench_apts.stats.verdict import Evidence, Rule, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench_apts.stats.expected_cost import Floats

ALPHA = 0.01
"""Chance of any false claim that is accepted, over all comparisons and looks of one command."""

LOOKS = (1, 2, 4)
"""Multiples of the first number of pairs at which what is still open is judged again."""

SpeedVerdict = Literal["slower", "faster", "alike", "open"]
"""The words of ``verdict.Verdict`` for code: ``more``, ``less``, and either kind of neither."""

K = TypeVar("K")


class Noise(NamedTuple):
    """What pairs of equal trials say of times.

    Attributes:
        mean: Geometric mean of the twin's time over the other's: 1 where nothing drifts.
        factor: Largest ratio of the slower to the faster one of a pair.
        pairs: How many there are.
        scatter: Standard deviation of the log ratio within a pair; of a single pair its
            absolute value.
    """

    mean: float
    factor: float
    pairs: int
    scatter: float

    def of_mean(self, trials: int) -> float:
        """Return the ratio, at least 1, that means of so many equal trials differ by.

        The drift, which no number of trials averages out, and the 95 % limit of the scatter by
        Student's t, which falls with the root of the number of trials.

        Args:
            trials: Of the optimizer that has the fewer, at least 1.
        """
        from scipy.special import stdtrit

        limit = float(stdtrit(self.pairs - 1, 0.975)) if self.pairs > 1 else 1.0
        return math.exp(abs(math.log(self.mean)) * (self.pairs > 1)
                        + limit * self.scatter / math.sqrt(max(1, trials)))


def noise(pairs: Iterable[tuple[float, float]]) -> Noise | None:
    """Compare the times of A/A pairs; None without any.

    Args:
        pairs: Positive times of a trial and of its twin, in any unit.
    """
    logs = [math.log(twin / first) for first, twin in pairs]
    if not logs:
        return None
    return Noise(math.exp(statistics.fmean(logs)), math.exp(max(map(abs, logs))), len(logs),
                 statistics.stdev(logs) if len(logs) > 1 else abs(logs[0]))


class Ratios(NamedTuple):
    """Logarithms of the ratios of times, within all blocks of one comparison.

    Attributes:
        pairs: New over old, shape ``(2 · blocks,)``.
        equal: Of equal code, shape ``(2 · blocks,)``, as often the later run over the earlier as
            the other way round.
    """

    pairs: Sequence[float]
    equal: Sequence[float]


class Slowdown(NamedTuple):
    """New code's time over old code's.

    Attributes:
        ratio: The estimate (Hodges and Lehmann, 1963: median of the means of all pairs of
            ratios, on the log scale).
        interval: Its 95 % bootstrap interval.
        noise: How far from 1, in either direction, the same interval of equal code reaches.
        p: One-sided p-value of "no slower than equal code scatters" (Mann and Whitney, 1947).
        pairs: How many ratios it rests on.
        verdict: ``open`` where a slowdown by the factor is suspected and not shown.
    """

    ratio: float
    interval: Interval
    noise: float
    p: float
    pairs: int
    verdict: SpeedVerdict


def judge_slowdown(ratios: Ratios, factor: float, alpha: float) -> Slowdown:
    """Judge one comparison.

    *Slower* is what the rule of ``verdict`` calls more, and beyond ``factor``; *faster* is what it
    calls less. The p-values are one-sided. *Alike* is what leaves no room for a slowdown by
    ``factor``, or is less than half way there: longer measuring of all that is merely uncertain
    would take most of the time.

    Args:
        ratios: The measured ones.
        factor: Slowdown up to which new code is not slower, at least 1.
        alpha: Accepted chance that this comparison makes a false claim.

    Raises:
        ValueError: There are fewer than two ratios of either kind.
    """
    from scipy.stats import mannwhitneyu

    ratio, interval = _estimate(ratios.pairs)
    _, equal = _estimate(ratios.equal)
    noise = max(equal.high, 1.0 / equal.low)
    # Twice the smaller p-value is judged at twice alpha below: each side at alpha.
    p, p_faster = (float(mannwhitneyu(ratios.pairs, ratios.equal, alternative=side).pvalue)
                   for side in ("greater", "less"))
    (decision,) = decide([Evidence(ratio, interval, min(1.0, 2.0 * min(p, p_faster)), 0.0, noise)],
                         Rule(2.0 * alpha, least=1.0))
    near = interval.high <= factor or ratio <= math.sqrt(factor)
    verdict: SpeedVerdict = "alike" if near else "open"
    if decision.verdict == "more" and ratio > factor:
        verdict = "slower"
    elif decision.verdict == "less":
        verdict = "faster"
    return Slowdown(ratio, interval, noise, p, len(ratios.pairs), verdict)


def settle_slowdowns(
    cells: Sequence[K], measure: Callable[[Sequence[K], int], Mapping[K, Ratios]], pairs: int,
    factor: float,
) -> dict[K, Slowdown]:
    """Judge several comparisons, and measure those that are still open for longer.

    Every look at every comparison gets an equal share of ``ALPHA``. What is slower ends it: the
    verdict on all is then certain.

    Args:
        cells: What is compared.
        measure: Returns all ratios of cells, measuring as many more as it takes to have a
            number of pairs.
        pairs: How many to begin with.
        factor: As in ``judge_slowdown``.

    Returns:
        The last judgement of each; ``open`` where the pairs did not suffice.
    """
    found: dict[K, Slowdown] = {}
    waiting = list(cells)
    for times in LOOKS:
        ratios = measure(waiting, times * pairs)
        for cell in waiting:
            found[cell] = judge_slowdown(ratios[cell], factor, ALPHA / (len(cells) * len(LOOKS)))
        waiting = [cell for cell in waiting if found[cell].verdict == "open"]
        if not waiting or any(slowdown.verdict == "slower" for slowdown in found.values()):
            break
    return found


def _estimate(logs: Sequence[float]) -> tuple[float, Interval]:
    values = np.asarray(logs, dtype=np.float64)
    drawn = resampled(len(values))
    if drawn is None:
        raise ValueError(f"{len(values)} ratio has no interval")
    low, high = percentiles(_centres(values[drawn]))
    return float(np.exp(_centres(values[None])[0])), Interval(math.exp(low), math.exp(high))


def _centres(rows: Floats) -> Floats:
    """Return the Hodges-Lehmann estimate of each row, shape ``(B,)``."""
    one, other = np.triu_indices(rows.shape[1])
    centres: Floats = np.median((rows[:, one] + rows[:, other]) / 2, axis=1)
    return centres
