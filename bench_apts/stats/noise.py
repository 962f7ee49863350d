"""How far times scatter on a machine: what A/A pairs tell (docs/measurement.md, 2)."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        from scipy.stats import t

        limit = float(t.ppf(0.975, self.pairs - 1)) if self.pairs > 1 else 1.0
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
