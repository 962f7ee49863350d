"""Draws of the expected cost to the target, given a few trials: the posterior of an ERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.stats.bootstrap import SEED
from bench_apts.stats.checks import check_bills

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.bootstrap import Floats


def ert_draws(spent: Sequence[float], cost: Sequence[float], *, draws: int = 2000,
              seed: int = SEED, cap: float | None = None) -> Floats:
    """Return draws of the ERT, shape ``(draws,)``; of its lower bound after zero hits."""
    check_bills(spent, cost)
    bills = np.asarray(spent, dtype=np.float64)
    hit = np.isfinite(cost)
    trials, hits = len(bills), int(hit.sum())
    generator = np.random.default_rng(seed)
    if not hits:
        share = 1 - generator.random(draws) ** (1 / trials)
        lower: Floats = bills.mean() / share
        return lower
    share = generator.beta(hits + 0.5, trials - hits + 0.5, draws)
    logs = np.log(np.maximum(bills[hit], 1e-300))
    variance = (0.3**2 + ((logs - logs.mean())**2).sum()) / generator.chisquare(hits, draws)
    middle = logs.mean() + np.sqrt(variance / hits) * generator.standard_normal(draws)
    mean = np.exp(np.minimum(middle + variance / 2, 700))
    miss = bills[~hit].mean() if hits < trials else bills.max()
    found: Floats = mean + (1 - share) / share * miss
    return found
