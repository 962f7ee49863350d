"""P-values by exchanging labels: exact for any distribution, at any number of trials.

If two optimizers are equal, it is chance which of the trials carry whose label. The p-value is the
share of all ways to give the labels that look at least as different as what was measured (Fisher,
"The design of experiments", 1935). Pairs exchange the labels within each pair.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.bootstrap import Floats

    Statistic = Callable[[Floats, Floats], Floats]

MOST = 4096
"""Exchanges up to which all are tried; of more, so many are drawn."""

SEED = 20_240

_ROUNDING = 1e-9


def exchange_p(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]],
               statistic: Statistic, *, paired: bool) -> float:
    """Return the two-sided p-value of equal distributions.

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
    """Which pairs are exchanged, shape ``(exchanges, pairs)``; none in the first row."""
    if 2**pairs <= MOST:
        masks = np.array(list(itertools.product((0.0, 1.0), repeat=pairs)))
    else:
        masks = np.random.default_rng(SEED).integers(0, 2, (MOST, pairs)).astype(np.float64)
        masks[0] = 0.0
    return masks


@lru_cache(maxsize=64)
def _choices(first: int, second: int) -> Floats:
    """Which trials carry the first label, shape ``(exchanges, n1 + n2)``; the true ones first."""
    every = first + second
    if math.comb(every, first) <= MOST:
        chosen = list(itertools.combinations(range(every), first))  # the true ones come first
    else:
        generator = np.random.default_rng(SEED)
        chosen = [tuple(range(first)),
                  *(tuple(generator.permutation(every)[:first]) for _ in range(MOST - 1))]
    masks = np.zeros((len(chosen), every))
    for row, trials in enumerate(chosen):
        masks[row, list(trials)] = 1.0
    return masks
