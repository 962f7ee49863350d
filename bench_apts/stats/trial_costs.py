"""One trial: when it hit its target, what that cost, and which trial tuning selects.

The atom of every later statistic is one trial's cost to the target, infinite for a miss and never
imputed, together with what it spent (docs/measurement.md, 1 and 5). Tuning selects twice: the
configuration that reaches the target for the least, for all costs; and the one that ends best,
for all accuracies.
"""

from __future__ import annotations

import math
import operator
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.currencies import CURRENCIES, Currency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.core.records import TrialRecord

Cost = dict[Currency, float]

_BROKEN = frozenset({"diverged", "oom", "error"})


class TargetOutcome(NamedTuple):
    """How one trial fared against one level of its target.

    Attributes:
        hit: Whether the level was hit.
        cost: Cost at the first hit, infinite in every currency for a miss.
        last_miss: Cost at the last evaluation before the hit, the open end of the bracket
            ``(last_miss, cost]``; zero if the first evaluation hit, None for a miss.
        spent: What drawing this trial costs: up to the hit, else everything it recorded.
    """

    hit: bool
    cost: Cost
    last_miss: Cost | None
    spent: Cost


def find_bracket(
    values: Sequence[float], reached: Callable[[float], bool], consecutive: int
) -> tuple[int | None, int] | None:
    """Find the bracket ``(last miss, first hit]`` of a target (docs/measurement.md, 1).

    A hit is the first of ``consecutive`` successive evaluations that all reach the target, and
    all of them must exist: a curve that ends too early has not hit. NaN never reaches.

    Args:
        values: The metric at successive evaluations, shape ``(evaluations,)``.
        reached: Says whether one value is at or beyond the target.
        consecutive: How many evaluations in a row make a hit, at least 1.

    Returns:
        The index of the last evaluation before the hit (None if the hit is the first one) and
        the index of the hit, or None if the target was never hit.

    Raises:
        ValueError: ``consecutive`` is below 1.
    """
    if consecutive < 1:
        raise ValueError(f"consecutive must be at least 1, got {consecutive}")
    run = 0
    for index, value in enumerate(values):
        # NaN is excluded here, as `reached` could be `not value < threshold`.
        run = run + 1 if reached(value) and not math.isnan(value) else 0
        if run == consecutive:
            first = index - consecutive + 1
            return (first - 1 if first else None), first
    return None


def metric_values(record: TrialRecord) -> list[float]:
    """Return the target's metric at each evaluation; NaN where it was not recorded."""
    metric = record.trial.suite.target.metric
    return [event.validation.get(metric, math.nan) for event in record.evals]


def hit_bracket(record: TrialRecord, level: float = 1.0,
                values: Sequence[float] | None = None) -> tuple[int | None, int] | None:
    """Return the evaluations ``(last miss, first hit)`` of ``level``, or None for a miss.

    Args:
        record: The trial.
        level: Level of its target.
        values: Its ``metric_values``, where they have been read already.
    """
    suite = record.trial.suite
    # A function of C: it is called for every evaluation of every trial, for many statistics.
    reached = partial(operator.le if suite.target.direction == "max" else operator.ge,
                      suite.target.threshold(level))
    return find_bracket(metric_values(record) if values is None else values, reached,
                        suite.evaluation.consecutive)


def cost_at(record: TrialRecord, index: int) -> Cost:
    """Return the cost from the first training step up to evaluation ``index``."""
    return _Costs(record).at(index)


def costs_along(record: TrialRecord, currency: Currency) -> list[float]:
    """Return the cost up to each evaluation, in one currency."""
    row, ranks = CURRENCIES[currency], record.trial.ranks
    if not row.measured(record):
        return [math.nan] * len(record.evals)
    return [row.at(event, ranks) for event in record.evals]


def cost_recorded(record: TrialRecord, currencies: Iterable[Currency] = CURRENCIES) -> Cost:
    """Return all that a trial recorded as spent, whatever its end.

    The last evaluation and the end event may each know more than the other: the end has no
    passes and no operations, and a killed trial has no end. The larger number of both is
    billed. A trial with neither is billed zero.
    """
    return _Costs(record, currencies).recorded


class _Costs:
    """The costs of one trial, each of which is read once."""

    def __init__(self, record: TrialRecord, currencies: Iterable[Currency] = CURRENCIES) -> None:
        self._record, self._ranks = record, record.trial.ranks
        self._rows = [(currency, row, row.measured(record)) for currency in currencies
                      for row in [CURRENCIES[currency]]]
        self._found: dict[int, Cost] = {}

    def at(self, index: int) -> Cost:
        """Return the cost up to evaluation ``index``."""
        if index not in self._found:
            event, ranks = self._record.evals[index], self._ranks
            self._found[index] = {currency: row.at(event, ranks) if known else math.nan
                                  for currency, row, known in self._rows}
        return self._found[index]

    @cached_property
    def recorded(self) -> Cost:
        """See ``cost_recorded``."""
        end = self._record.end
        cost = (dict(self.at(-1)) if self._record.evals
                else dict.fromkeys((currency for currency, _, _ in self._rows), 0.0))
        if end is None:
            return cost
        for currency, row, known in self._rows:
            if not known:
                cost[currency] = math.nan
            elif row.read_end is not None:
                cost[currency] = max(cost[currency], row.read_end(end, self._ranks))
        return cost


def outcome(record: TrialRecord, level: float = 1.0) -> TargetOutcome:
    """Return one trial's cost to ``level`` and what it spent.

    A trial that hit is billed up to its first hit, since drawing would stop there, even if it
    trained on or failed later.
    """
    return _target_outcome(_Costs(record), hit_bracket(record, level))


def outcomes(record: TrialRecord) -> dict[float, TargetOutcome]:
    """Return the outcome at each of the target's levels, the full target among them."""
    values, costs = metric_values(record), _Costs(record)
    return {level: _target_outcome(costs, hit_bracket(record, level, values))
            for level in record.trial.suite.target.every_level}


def _target_outcome(costs: _Costs, found: tuple[int | None, int] | None) -> TargetOutcome:
    if found is None:
        return TargetOutcome(False, dict.fromkeys(CURRENCIES, math.inf), None, costs.recorded)
    last_miss, first_hit = found
    cost = costs.at(first_hit)
    before: Cost = (dict.fromkeys(CURRENCIES, 0.0) if last_miss is None
                    else costs.at(last_miss))
    return TargetOutcome(True, cost, before, cost)


def all_known(drawn: Iterable[TargetOutcome], currency: Currency) -> bool:
    """Say whether a currency was counted in all trials; a miss is known to cost infinity."""
    return not any(math.isnan(o.spent[currency]) or math.isnan(o.cost[currency]) for o in drawn)


def select_fastest(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Choose the trial that is fastest to the target, by validation alone.

    The fewest samples to the first hit of the full target win; if no trial hit it, of the next
    lower level (0.99, then 0.95 by default); if none hit any, the best validation metric of any
    evaluation. Ties go to the lower repetition number. Trials that diverged or failed count
    only if no other has an evaluation.

    Args:
        trials: Tuning trials of one optimizer on one suite at one N.

    Returns:
        The chosen trial, or None if no trial has any evaluation.
    """
    candidates = _candidates(trials)
    if not candidates:
        return None
    for level in reversed(candidates[0].trial.suite.target.every_level):
        hits = [(record.evals[found[1]].samples, record.trial.repetition, order)
                for order, record in enumerate(candidates)
                if (found := hit_bracket(record, level)) is not None]
        if hits:
            return candidates[min(hits)[-1]]
    return min(candidates, key=lambda record: (-best_metric(record), record.trial.repetition))


def select_best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Choose the trial that is best at the end of the budget, by the validation metric.

    Ties go to the lower repetition number. If no trial got to the end of its budget, the last
    evaluation of each counts; of trials that diverged or failed, only if no other has one.

    Args:
        trials: Tuning trials of one optimizer on one suite at one N.

    Returns:
        The chosen trial, or None if no trial has any evaluation.
    """
    candidates = _candidates(trials)
    ended = [record for record in candidates if final_metric(record) is not None]
    return min(ended or candidates, default=None, key=lambda record: (
        -_signed(record, metric_values(record)[-1]), record.trial.repetition))


def _candidates(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return trials that have an evaluation; broken ones only if no other has."""
    evaluated = [record for record in trials if record.evals]
    return [record for record in evaluated
            if record.end is None or record.end.status not in _BROKEN] or evaluated


def final_metric(record: TrialRecord) -> float | None:
    """Return the target's metric at the end of the budget; None if a trial did not get there."""
    suite, end = record.trial.suite, record.end
    if end is None or end.status not in ("hit", "miss") or not record.evals:
        return None
    value = metric_values(record)[-1]
    return value if record.evals[-1].samples >= suite.budget.samples and math.isfinite(
        value) else None


def best_metric(record: TrialRecord) -> float:
    """Return the best validation metric of any evaluation, signed so that more is better.

    −inf without a number to compare.
    """
    return max((_signed(record, value) for value in metric_values(record)), default=-math.inf)


def _signed(record: TrialRecord, value: float) -> float:
    """Return the metric with a sign such that more is better; −inf for NaN."""
    if math.isnan(value):
        return -math.inf
    return value if record.trial.suite.target.direction == "max" else -value
