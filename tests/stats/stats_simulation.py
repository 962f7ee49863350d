"""Synthetic trials of known expected cost, for the promises of docs/statistics.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.pairwise_comparison import Bill, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.verdict import Evidence

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
    return compare(first, second, paired=paired).evidence()


def rate(claims: Sequence[bool]) -> float:
    """Share of rounds in which something was claimed."""
    return sum(claims) / len(claims)


def tables(rounds: int = 1000) -> None:
    """Print the tables of docs/statistics.md: coverage, false claims and power."""
    from bench_apts.stats.sample_size import Spread, power
    from bench_apts.stats.verdict import decide, winners

    sizes = (3, 5, 8, 10, 20, 40)

    def row(title, values):
        print(f"| {title} | " + " | ".join(f"{100 * value:.0f}" for value in values) + " |",
              flush=True)

    def head(title):
        print(f"\n| {title} | " + " | ".join(f"n = {n}" for n in sizes) + " |\n| --- |"
              + " ---: |" * len(sizes))

    head("coverage of the ERT")
    for name, shape in SHAPES.items():
        row(name, [coverage(shape, n, rounds) for n in sizes])

    def claimed(first, second, paired, n, other):
        found = []
        for seed in range(rounds):
            g = np.random.default_rng(seed)
            found.append(decide([evidence(first.bill(g, n), second.bill(g, other),
                                          paired=paired)])[0].differs)
        return rate(found)

    head("two equal optimizers told apart")
    for name, shape in SHAPES.items():
        for paired in (True, False):
            row(f"{name}, {'pairs' if paired else 'unpaired'}",
                [claimed(shape, shape, paired, n, n) for n in sizes])
    head("a search of 8 and n untuned trials of equal cost told apart")
    for name in ("10 %", "30 %", "lognormal", "30 % fail"):
        row(name, [claimed(SHAPES["search"], SHAPES[name], False, 8, n) for n in sizes])
    head("six equal: a winner in the box")
    both = {name: [[], []] for name in ("10 %", "lognormal", "30 % fail", "60 % fail")}
    for name, (boxes, stars) in both.items():
        for n in sizes:
            box, star = [], []
            for seed in range(rounds // 3):
                g = np.random.default_rng(seed)
                made = [SHAPES[name].bill(g, n) for _ in range(6)]
                best = min(made, key=lambda bill: bill.value)
                box.append(winners([[evidence(bill, best, paired=True)
                                     for bill in made if bill is not best]])[0])
                star.append(any(each.differs for each in decide(
                    [evidence(bill, made[0], paired=True) for bill in made[1:]])))
            boxes.append(rate(box))
            stars.append(rate(star))
        row(name, boxes)
    head("six equal: any star against one of them")
    for name, (_, stars) in both.items():
        row(name, stars)
    head("a factor of 1.2 detected")
    for scatter in (0.05, 0.1, 0.3):
        for paired in (True, False):
            row(f"{100 * scatter:.0f} %, {'pairs' if paired else 'unpaired'}", [
                power(Spread(scatter), Spread(scatter), (n, n), 1.2, paired=paired,
                      rounds=rounds // 2) for n in sizes])


if __name__ == "__main__":
    tables()
