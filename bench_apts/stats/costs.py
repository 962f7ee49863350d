"""What a trial cost to reach a target, and what it spent, in each currency.

docs/measurement.md, 5: the atom of every later statistic is one trial's cost to the target
(infinite for a miss, never imputed) beside the cost that it spent.
"""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.currency import CURRENCIES, Currency
from bench_apts.core.records import TrialRecord, method_bytes
from bench_apts.stats.hitting import bracket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.core.records import Eval

Cost = dict[Currency, float]


class Outcome(NamedTuple):
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


def metric_values(record: TrialRecord) -> list[float]:
    """Returns the target's metric at each evaluation; NaN where it was not recorded."""
    metric = record.trial.suite.target.metric
    return [event.validation.get(metric, math.nan) for event in record.evals]


def hit_bracket(record: TrialRecord, level: float = 1.0,
                values: Sequence[float] | None = None) -> tuple[int | None, int] | None:
    """Returns the evaluations ``(last miss, first hit)`` of ``level``, or None for a miss.

    Args:
        record: The trial.
        level: Level of its target.
        values: Its ``metric_values``, where they have been read already.
    """
    suite = record.trial.suite
    # A function of C: it is asked about every evaluation of every trial, for many statistics.
    reached = partial(operator.le if suite.target.direction == "max" else operator.ge,
                      suite.target.threshold(level))
    return bracket(metric_values(record) if values is None else values, reached,
                   suite.evaluation.consecutive)


def _cpu_s(event: Eval, ranks: int) -> float:
    if event.all_ranks_cpu_s is not None:
        return event.all_ranks_cpu_s
    return event.cpu_s if ranks == 1 else math.nan


_READ: dict[Currency, Callable[[Eval, int], float]] = {
    "core_seconds": lambda event, ranks: ranks * event.train_s,
    "train_s": lambda event, _: event.train_s,
    "wall_s": lambda event, _: event.wall_s,
    "wire_bytes": lambda event, _: method_bytes(event.comm),
    "gradient_evaluations": lambda event, _: float(event.backwards),
    "flops": lambda event, _: math.nan if event.flops is None else event.flops,
    "samples": lambda event, _: float(event.samples),
    "cpu_s": _cpu_s,
}


def _readers(record: TrialRecord) -> dict[Currency, Callable[[Eval, int], float]]:
    return _READ | {"wire_bytes": lambda *_: math.nan} if record.uncounted else _READ


def cost_at(record: TrialRecord, index: int) -> Cost:
    """Returns the cost from the first training step up to evaluation ``index``."""
    event, ranks = record.evals[index], record.trial.ranks
    return {currency: read(event, ranks) for currency, read in _readers(record).items()}


def costs_along(record: TrialRecord, currency: Currency) -> list[float]:
    """Returns the cost up to each evaluation, in one currency."""
    read, ranks = _readers(record)[currency], record.trial.ranks
    return [read(event, ranks) for event in record.evals]


def cost_recorded(record: TrialRecord) -> Cost:
    """Returns all that a trial recorded as spent, whatever its end.

    The last evaluation and the end event may each know more than the other: the end has no
    passes and no operations, and a killed trial has no end. The larger number of both is
    billed. A trial with neither is billed zero.
    """
    cost: Cost = cost_at(record, -1) if record.evals else dict.fromkeys(CURRENCIES, 0.0)
    end = record.end
    if end is None:
        return cost
    train_s = max(cost["train_s"], end.ledger.get("train_s", end.ledger.get("train", 0.0)))
    return cost | {
        "core_seconds": record.trial.ranks * train_s,
        "train_s": train_s,
        "wall_s": max(cost["wall_s"], end.wall_s),
        "wire_bytes": (math.nan if record.uncounted
                       else max(cost["wire_bytes"], method_bytes(end.comm))),
        "samples": max(cost["samples"], float(end.samples)),
    }


def outcome(record: TrialRecord, level: float = 1.0) -> Outcome:
    """Returns cost to ``level`` and cost spent of one trial (docs/measurement.md, 1 and 5).

    A trial that hit is billed up to its first hit, since drawing would stop there, even if it
    trained on or came to grief later.
    """
    return _outcome(record, hit_bracket(record, level))


def _outcome(record: TrialRecord, found: tuple[int | None, int] | None) -> Outcome:
    if found is None:
        return Outcome(False, dict.fromkeys(CURRENCIES, math.inf), None, cost_recorded(record))
    last_miss, first_hit = found
    cost = cost_at(record, first_hit)
    before: Cost = (dict.fromkeys(CURRENCIES, 0.0) if last_miss is None
                    else cost_at(record, last_miss))
    return Outcome(True, cost, before, cost)


def known(drawn: Iterable[Outcome], currency: Currency) -> bool:
    """Says whether a currency was counted in all trials; a miss is known to cost infinity."""
    return not any(math.isnan(o.spent[currency]) or math.isnan(o.cost[currency]) for o in drawn)


def outcomes(record: TrialRecord) -> dict[float, Outcome]:
    """Returns the outcome at each of the target's levels, the full target among them."""
    values = metric_values(record)
    return {level: _outcome(record, hit_bracket(record, level, values))
            for level in record.trial.suite.target.every_level}
