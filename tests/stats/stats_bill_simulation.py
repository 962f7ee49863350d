"""Simulates studies whose bills are known: what tuning cost, and one frozen configuration."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bench_apts.stats.amortisation import Trainings, break_even

SHAPES = ("10 %", "30 %", "lognormal", "30 % fail")
NUMBERS = (3, 5, 8, 10, 20)
BREAK_EVEN = 15
"""The true R*."""

TRIALS = 8
_MISS = 2.0
"""What a training that fails costs, in means of one that hits."""


class Kept(NamedTuple):
    """How an estimate fared over all simulated studies.

    Attributes:
        median: Of its ratio to the truth.
        covered: Share of its 95 % intervals that hold the truth.
        shown: Share of the studies in which it is shown as a number.
        when_shown: Median of its ratio to the truth in these; NaN without any.
    """

    median: float
    covered: float
    shown: float
    when_shown: float


def simulated(shape, seeds, rounds=400):
    """Returns a ``Kept`` for bills of 10 and 100 trainings and for R*, by name.

    The truth is that of each study: its own tuning trials, of which some hit and some miss, and
    the expected cost of its frozen configuration, which is 1. ``seeds`` fresh seeds are run of it
    and of an optimizer without tuning.
    """
    generator = np.random.default_rng([SHAPES.index(shape), seeds])
    found = {"10 trainings": [], "100 trainings": [], "R*": []}
    for _ in range(rounds):
        hit = generator.random(TRIALS) < 0.6
        hit[0] |= not hit.any()
        tuning = float(np.where(hit, generator.lognormal(0.3, 0.4, TRIALS), 3.0).sum())
        # At 14.5 prices the two bills are equal, so that 15 is the first whole number.
        price = 1 + (tuning - 1) / (BREAK_EVEN - 0.5)
        mine = Trainings(*trainings(shape, seeds, 1.0, generator), tuning)
        theirs = Trainings(*trainings(shape, seeds, price, generator))
        for count in (10, 100):
            truth, interval = tuning + count - 1, mine.interval(count)
            found[f"{count} trainings"].append((
                mine.at(count) / truth, interval.low <= truth <= interval.high,
                mine.worth_a_number(count)))
        even = break_even(mine, theirs)
        found["R*"].append((even.trainings / BREAK_EVEN,
                            even.interval.low <= BREAK_EVEN <= even.interval.high, even.is_known))
    return {what: _kept(rows) for what, rows in found.items()}


def trainings(shape, number, expected, generator):
    """Draws trainings of an expected cost: ``(spent, cost)``."""
    hit = np.ones(number, dtype=bool)
    mean = 1.0
    if shape == "lognormal":
        spent, mean = generator.lognormal(0, 0.5, number), math.exp(0.125)
    else:
        scatter = 0.1 if shape == "10 %" else 0.3
        spent = np.maximum(0.05, generator.normal(1, scatter, number))
    if shape == "30 % fail":
        hit = generator.random(number) > 0.3
        spent, mean = np.where(hit, spent, _MISS), 1 + 0.3 / 0.7 * _MISS
    spent = spent * expected / mean
    return spent, np.where(hit, spent, math.inf)


def _kept(rows):
    ratios, covered, shown = (np.array(column) for column in zip(*rows, strict=True))
    return Kept(float(np.median(ratios)), float(covered.mean()), float(shown.mean()),
                float(np.median(ratios[shown])) if shown.any() else math.nan)


def table(rounds):
    """Returns the table of docs/statistics.md."""
    lines = ["| scatter | fresh seeds | " + " | ".join(
        f"{what}: median, covered, shown" for what in ("10 trainings", "100 trainings", "R*"))
        + " |", "| --- | --- | --- | --- | --- |"]
    for shape in SHAPES:
        for seeds in NUMBERS:
            lines.append(f"| {shape} | {seeds} | " + " | ".join(
                f"{each.median:.2f}, {each.covered:.0%}, {each.shown:.0%}".replace("%", " %")
                + (f" ({each.when_shown:.2f})" if each.shown >= 0.05 else "")
                for each in simulated(shape, seeds, rounds).values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(1_000))
