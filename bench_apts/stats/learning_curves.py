"""Learning curves: a trial as a tuner would have seen it; bands over seeds; thinned points."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from bench_apts.stats.trial_costs import cost_recorded, costs_along, hit_bracket, metric_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import TrialRecord
    from bench_apts.stats.expected_cost import Floats

Direction = Literal["max", "min"]

QUARTILES_FROM = 5
"""Seeds from which on a band spans the quartiles; of fewer, it spans them all."""

MOST_POINTS = 120
"""Evaluations up to which a curve is drawn whole."""


class Curve(NamedTuple):
    """One trial that ran unpruned to its hit or its cap.

    Attributes:
        steps: Where it was evaluated, in samples or steps, strictly increasing, shape ``(k,)``.
        values: Validation metric there, NaN where unknown, shape ``(k,)``.
        costs: Cost so far, in any one currency, shape ``(k,)``.
        hit: Index of the evaluation that first hit the target, or None.
        spent: All that it cost if it is not stopped: up to the hit, else to its end.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    costs: tuple[float, ...]
    hit: int | None
    spent: float


def make_curve(steps: tuple[int, ...], values: tuple[float, ...], costs: tuple[float, ...],
               hit: int | None, spent: float) -> Curve:
    """Return a checked curve; the arguments are its attributes.

    Raises:
        ValueError: Lengths differ, steps do not increase, costs decrease or are unknown, a
            trial costs less than it had cost before, or the hit is not among the evaluations.
    """
    if not len(steps) == len(values) == len(costs):
        raise ValueError("steps, values and costs differ in length")
    if not all(map(operator.lt, steps, steps[1:])):
        raise ValueError("steps must increase")
    bills = (*costs, spent) if hit is None else costs
    if (not all(map(math.isfinite, (*bills, spent)))
            or any(map(operator.gt, bills, bills[1:]))):
        raise ValueError("costs must be known and must not decrease")
    if hit is not None and (not 0 <= hit < len(steps) or spent != costs[hit]):
        raise ValueError("a hit must be an evaluation, at which the bill ends")
    return Curve(steps, values, costs, hit, spent)


def curve(record: TrialRecord, currency: Currency, level: float = 1.0) -> Curve:
    """Read a trial's curve against samples seen.

    Args:
        record: A trial that was not pruned.
        currency: What costs are counted in.
        level: Level of the target.

    Raises:
        ValueError: The currency was not counted in this record.
    """
    values = metric_values(record)
    found = hit_bracket(record, level, values)
    costs = tuple(costs_along(record, currency))
    hit = found[1] if found else None
    spent = cost_recorded(record, (currency,))[currency] if hit is None else costs[hit]
    return make_curve(tuple(event.samples for event in record.evals),
                      tuple(values), costs, hit, spent)


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
    """Return median and band of values of shape ``(evaluations, seeds)``, at least one seed."""
    edges = (25, 75) if values.shape[1] >= QUARTILES_FROM else (0, 100)
    low, middle, high = np.percentile(values, (edges[0], 50, edges[1]), axis=1)
    return Band(middle, low, high)


def thinning_stride(longest: int, most: int = MOST_POINTS) -> int:
    """Return k, where of curves of up to ``longest`` evaluations every k-th is kept."""
    return max(1, -(-longest // most))


def thinned_points(indices: Floats | NDArray[np.int64], hits: NDArray[np.bool_],
                   step: int) -> NDArray[np.bool_]:
    """Mark what a thinned curve keeps: every ``step``-th evaluation, the first hit, the last.

    Args:
        indices: Numbers of one curve's evaluations, ascending, shape ``(evaluations,)``.
        hits: Where it first hit, shape ``(evaluations,)``.
        step: From ``thinning_stride``.
    """
    found: NDArray[np.bool_] = (indices % step == 0) | hits
    found[-1:] = True
    return found
