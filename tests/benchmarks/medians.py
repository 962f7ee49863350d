"""The interval of a median from order statistics, whatever the distribution."""

import math
from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of a 95 % interval, in the unit of the values."""

    low: float
    high: float


def median_interval(values):
    """Return the 95 % interval of the median of many independent values."""
    ordered = sorted(values)
    # The number of values below the median is binomial, with a deviation of half the root.
    reach = 1.96 * math.sqrt(len(ordered)) / 2
    low = max(0, math.floor(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
    return Limits(ordered[low], ordered[high])
