"""Parallel efficiency of reaching a target, and its two factors (docs/measurement.md, 6)."""

from __future__ import annotations

import math
from typing import NamedTuple


class Training(NamedTuple):
    """What one training took to the target, infinite for a miss.

    Attributes:
        ranks: World size.
        seconds: Training seconds.
        samples: Samples processed by all ranks together.
    """

    ranks: int
    seconds: float
    samples: float


class Efficiency(NamedTuple):
    """The two factors of E = N0·T_N0 / (N·T_N).

    Attributes:
        hardware: Samples a second and rank, over those at N0: what communication costs.
        statistical: Samples to the target at N0, over those at N: what parallelism costs the
            method itself.
    """

    hardware: float
    statistical: float

    @property
    def total(self) -> float:
        """E: 1 where N ranks reach the target N / N0 times as fast as N0."""
        return self.hardware * self.statistical


def efficiency(base: Training, scaled: Training) -> Efficiency | None:
    """Compares two trainings to the same accuracy.

    None where one of them did not get there, or where the untrained model already met the target:
    no time and no samples have no ratio.

    Args:
        base: At N0 ranks.
        scaled: At N ranks.

    Raises:
        ValueError: A number is negative.
    """
    numbers = (base.seconds, base.samples, scaled.seconds, scaled.samples)
    if min(numbers) < 0:
        raise ValueError(f"times and samples are not negative, got {base} and {scaled}")
    if not all(map(math.isfinite, numbers)) or not all(numbers):
        return None
    one, other = (run.samples / run.seconds / run.ranks for run in (base, scaled))
    return Efficiency(other / one, base.samples / scaled.samples)
