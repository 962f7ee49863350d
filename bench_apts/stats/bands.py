"""Curves of several seeds: their median with a band, and how long curves are thinned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

QUARTILES_FROM = 5
"""Seeds from which on a band spans the quartiles; of fewer, it spans them all."""

MOST = 120
"""Evaluations up to which a curve is drawn whole."""


class Band(NamedTuple):
    """Median and band over seeds, at successive evaluations.

    Attributes:
        middle: Medians, shape ``(evaluations,)``.
        low: Lower quartile, or the smallest of fewer than ``QUARTILES_FROM`` seeds.
        high: Upper quartile, or the largest.
    """

    middle: Floats
    low: Floats
    high: Floats


def band(values: Floats) -> Band:
    """Returns median and band of values of shape ``(evaluations, seeds)``, at least one seed."""
    edges = (25, 75) if values.shape[1] >= QUARTILES_FROM else (0, 100)
    low, middle, high = np.percentile(values, (edges[0], 50, edges[1]), axis=1)
    return Band(middle, low, high)


def stride(longest: int, most: int = MOST) -> int:
    """Returns k, where of curves of up to ``longest`` evaluations every k-th is kept."""
    return max(1, -(-longest // most))


def kept(indices: Floats | NDArray[np.int64], hits: NDArray[np.bool_],
         step: int) -> NDArray[np.bool_]:
    """Marks what a thinned curve keeps: every ``step``-th evaluation, the first hit, the last.

    Args:
        indices: Numbers of one curve's evaluations, ascending, shape ``(evaluations,)``.
        hits: Where it first hit, shape ``(evaluations,)``.
        step: From ``stride``.
    """
    found: NDArray[np.bool_] = (indices % step == 0) | hits
    found[-1:] = True
    return found
