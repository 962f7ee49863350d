"""When tuning pays: bills of R trainings with tuning counted in (MEASUREMENT, section 5).

A bill is a straight line in R for each number K of tuning trials; the least of them at each R is
an envelope, and where two optimizers' envelopes cross, tuning begins or ceases to pay.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.checks import check_bills, check_known
from bench_apts.stats.tuning import best_weights, ert, hit_probability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Line(NamedTuple):
    """A bill as a straight line in the number of trainings.

    Attributes:
        draws: Tuning trials K that it begins with.
        first: Bill up to the first training that reached the target, tuning included.
        again: Bill of each further training.
    """

    draws: int
    first: float
    again: float

    def at(self, trainings: int) -> float:
        """Returns the bill of R trainings, the first included.

        Raises:
            ValueError: R is below 1.
        """
        if trainings < 1:
            raise ValueError(f"trainings must be at least 1, got {trainings}")
        # Without a further training, an infinite cost of rerunning must not matter.
        return self.first + (trainings - 1) * self.again if trainings > 1 else self.first


def tuned(spent: Sequence[float], cost: Sequence[float], rerun: Sequence[float],
          draws: int) -> Line:
    """Bill of tuning with K draws and training with the best of them (estimator 4).

    ``C(K, R) = K·E[s]/P_K + (R − 1)·Σ_i w_i r_(i)/P_K`` with ``w_i = C(n − i, K − 1)/C(n, K)``
    over the hits in order of cost. The tuning that finds the configuration is itself the first
    training, so ``C(1, 1)`` is the ERT. Sets of K without a hit are billed and drawn anew.

    Args:
        spent: What each trial cost, shape ``(n,)``.
        cost: Its cost to the target, infinite for a miss, shape ``(n,)``.
        rerun: Expected cost of training again with that trial's configuration, the ERT of
            independent reruns, shape ``(n,)``; read for hits only. ``cost`` in its place is too
            low: the best of K is chosen for its luck, too.
        draws: Tuning trials K, 1 … n.

    Returns:
        The line over R; infinite where nothing hit.

    Raises:
        ValueError: An argument is out of its range or unknown, or the lengths differ.
    """
    return _line(len(cost), math.fsum(spent), _again(spent, cost, rerun), draws)


def _again(spent: Sequence[float], cost: Sequence[float],
           rerun: Sequence[float]) -> list[float]:
    """Returns the costs of training again with the hits, in order of their own cost."""
    if not len(spent) == len(cost) == len(rerun):
        raise ValueError("spent, cost and rerun differ in length")
    check_bills(spent, cost)
    ordered = sorted((pair for pair in zip(cost, rerun, strict=True) if math.isfinite(pair[0])),
                     key=lambda pair: pair[0])
    again = [value for _, value in ordered]
    check_known(again)
    return again


def _line(trials: int, total: float, hits: Sequence[float], draws: int) -> Line:
    """The line of K of ``trials``, of which ``hits`` are trained again, ``total`` being spent."""
    weights = best_weights(trials, draws)
    chance = hit_probability(trials, len(hits), draws)
    if chance == 0:
        return Line(draws, math.inf, math.inf)
    # A weight of zero times an infinite cost is no cost at all, not NaN.
    again = math.fsum(w * r for w, r in zip(weights, hits, strict=False) if w > 0)
    return Line(draws, draws * total / trials / chance, again / chance)


def amortised(spent: Sequence[float], cost: Sequence[float], rerun: Sequence[float],
              draws: int, trainings: int) -> float:
    """Expected bill ``C(K, R)`` of R trainings: the line of ``tuned`` at R, with its errors."""
    return tuned(spent, cost, rerun, draws).at(trainings)


def untuned(spent: Sequence[float], cost: Sequence[float]) -> tuple[Line]:
    """The line ``R · ERT`` of an optimizer that is never tuned: each training starts anew."""
    found = ert(spent, cost)
    return (Line(1, found.cost, found.cost),)


def plans(spent: Sequence[float], cost: Sequence[float],
          rerun: Sequence[float]) -> tuple[Line, ...]:
    """The line of each K up to n/2, beyond which few sets of K differ; K = 1 at least.

    Raises:
        ValueError: No trials, or as in ``tuned``.
    """
    total, hits = math.fsum(spent), _again(spent, cost, rerun)
    return tuple(_line(len(cost), total, hits, draws)
                 for draws in range(1, max(1, len(cost) // 2) + 1))


def best_plan(lines: Sequence[Line], trainings: int) -> Line:
    """The line that is least at R trainings, the envelope; ties go to the smaller K.

    A minimum over noisy lines is on average too low: its interval is ``envelope_interval``.

    Raises:
        ValueError: No lines, or R is below 1.
    """
    return min(lines, key=lambda line: (line.at(trainings), line.draws))


class Span(NamedTuple):
    """Numbers of trainings from ``first`` to ``last``, both included; ``last`` may be infinite."""

    first: int
    last: float


class BreakEven(NamedTuple):
    """For how many trainings one optimizer costs no more than another.

    Attributes:
        spans: The numbers of trainings, in order; empty for none at all.
    """

    spans: tuple[Span, ...]

    @property
    def trainings(self) -> float:
        """R*: from here on it costs no more, however many follow; 1 always, infinite never."""
        if not self.spans or math.isfinite(self.spans[-1].last):
            return math.inf
        return self.spans[-1].first

    @property
    def verdict(self) -> str:
        """In words: ``always``, ``never``, ``from 5 trainings on``, ``up to 3 trainings`` …."""
        if not self.spans:
            return "never"
        return " and ".join(map(_words, self.spans))


def _words(span: Span) -> str:
    if math.isinf(span.last):
        return "always" if span.first == 1 else f"from {span.first} trainings on"
    plural = "" if span.last == 1 else "s"
    if span.first == 1:
        return f"up to {span.last:.0f} training{plural}"
    if span.first == span.last:
        return f"at {span.last:.0f} trainings"
    return f"from {span.first} to {span.last:.0f} trainings"


def break_even(mine: Sequence[Line], theirs: Sequence[Line]) -> BreakEven:
    """Finds for how many trainings the least of my lines is no dearer than the least of theirs.

    Exact for whole numbers of trainings. What cannot reach the target is never cheaper: infinite
    against infinite is no win.

    Args:
        mine: Lines of one optimizer, from ``plans`` or ``untuned``.
        theirs: Lines of the other.

    Raises:
        ValueError: One of them is empty.
    """
    if not mine or not theirs:
        raise ValueError("there are no lines to compare")
    # Between two knots no line crosses another, so that the sign of the difference is constant;
    # that 1 and 2 are knots serves lines that are finite at 1 alone.
    mine, theirs = _undominated(mine), _undominated(theirs)
    knots = {1, 2}
    for one, other in itertools.product(mine, theirs):
        crossing = 1 + _ratio(other.first - one.first, one.again - other.again)
        if 1 < crossing < math.inf:
            below = math.floor(crossing)
            # One more on each side, lest rounding puts a whole crossing on the wrong one.
            knots |= {knot for knot in range(below - 1, below + 3) if knot >= 1}
    spans: list[Span] = []
    ordered = sorted(knots)
    ours = _least(mine, ordered)
    cheap = np.isfinite(ours) & (ours <= _least(theirs, ordered))
    for knot, following, wins in zip(ordered, [*ordered[1:], None], cheap.tolist(), strict=True):
        if not wins:
            continue
        last = math.inf if following is None else following - 1
        if spans and spans[-1].last == knot - 1:
            spans[-1] = Span(spans[-1].first, last)
        else:
            spans.append(Span(knot, last))
    return BreakEven(tuple(spans))


def _undominated(lines: Sequence[Line]) -> list[Line]:
    """Leaves out lines that another one undercuts everywhere."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda line: (line.first, line.again)):
        if not kept or line.again < kept[-1].again:
            kept.append(line)
    return kept


def _least(lines: Sequence[Line], trainings: Sequence[int]) -> NDArray[np.float64]:
    """Least ``Line.at`` of all lines at each number of trainings, shape of ``trainings``."""
    first, again = (np.array(values)[:, None] for values in zip(
        *((line.first, line.again) for line in lines), strict=True))
    more = np.array([count - 1 for count in trainings], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        bills = np.where(more > 0, first + more * again, first)
    found: NDArray[np.float64] = bills.min(axis=0)
    return found


def _ratio(rise: float, slope: float) -> float:
    """Where two lines meet; NaN for parallel ones and for those without a finite crossing."""
    return rise / slope if slope and math.isfinite(rise) and math.isfinite(slope) else math.nan
