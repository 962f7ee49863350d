"""Synthetic trials of known expected cost, for the promises of docs/statistics.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.comparison import Bill, Comparison, compare
from bench_apts.stats.ert_draws import ert_interval
from bench_apts.stats.verdict import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INF = math.inf


class Shape(NamedTuple):
    """How costs scatter.

    Attributes:
        draw: Bills and whether each trial hit, of a generator and a number of trials.
        truth: The expected cost.
    """

    draw: Callable
    truth: float

    def bill(self, generator, trials, expected=1.0):
        """Trials whose true expected cost is ``expected``."""
        spent, hit = self.draw(generator, trials)
        spent = spent * (expected / self.truth)
        return Bill(spent.tolist(), np.where(hit, spent, INF).tolist())


def _always(values):
    return values, np.ones(len(values), dtype=bool)


def _scatter(share):
    return Shape(lambda g, n: _always(np.maximum(0.05, g.normal(1, share, n))), 1.0)


def _failing(share, miss=3.0):
    """Hits cost 1 ± 30 %, misses three times as much."""
    def draw(generator, trials):
        hit = generator.random(trials) >= share
        return np.where(hit, np.maximum(0.05, generator.normal(1, 0.3, trials)), miss), hit

    return Shape(draw, 1 + share / (1 - share) * miss)


def _search(generator, trials):
    """A random search: the middle of the range hits, the sooner the nearer to its best value."""
    place = generator.random(trials)
    hit = (place > 0.25) & (place < 0.8)
    return np.where(hit, 0.3 + 8 * (place - 0.55) ** 2, 2.0), hit


_INSIDE = np.linspace(0.25, 0.8, 10_001)

SHAPES = {
    "10 %": _scatter(0.1), "30 %": _scatter(0.3),
    "lognormal": Shape(lambda g, n: _always(g.lognormal(0, 1, n)), math.exp(0.5)),
    "Pareto": Shape(lambda g, n: _always(1 + g.pareto(1.8, n)), 1.8 / 0.8),
    "30 % fail": _failing(0.3), "60 % fail": _failing(0.6),
    "search": Shape(_search, float(np.mean(0.3 + 8 * (_INSIDE - 0.55) ** 2)) + 0.45 / 0.55 * 2),
}


def coverage(shape: Shape, trials: int, rounds: int) -> float:
    """Share of intervals that hold the true expected cost."""
    inside = 0
    for seed in range(rounds):
        bill = shape.bill(np.random.default_rng(seed), trials, shape.truth)
        found = ert_interval(bill.spent, bill.cost)
        inside += found.low <= shape.truth <= found.high
    return inside / rounds


def evidence(first: Bill, second: Bill, *, paired: bool) -> Evidence:
    """A comparison as the rule takes it, without noise of the machine."""
    found: Comparison = compare(first, second, paired=paired)
    return Evidence(found.ratio, found.interval, found.p, found.least)


def rate(claims: Sequence[bool]) -> float:
    """Share of rounds in which something was claimed."""
    return sum(claims) / len(claims)
