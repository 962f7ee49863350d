"""The rules by which tuning freezes configurations (docs/measurement.md, 5: freeze).

Two questions take two answers: which configuration reaches the target for the least, for all
costs; and which one ends best, for all accuracies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.stats.costs import hit_bracket, metric_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.records import TrialRecord

_BROKEN = frozenset({"diverged", "oom", "error"})


def select(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Chooses the trial that is fastest to the target, by validation alone.

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
    """Chooses the trial that is best at the end of the budget, by the validation metric.

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
    """Trials that have an evaluation; those that diverged or failed only if no other has."""
    evaluated = [record for record in trials if record.evals]
    return [record for record in evaluated
            if record.end is None or record.end.status not in _BROKEN] or evaluated


def final_metric(record: TrialRecord) -> float | None:
    """Returns the target's metric at the end of the budget; None if a trial did not get there."""
    suite, end = record.trial.suite, record.end
    if end is None or end.status not in ("hit", "miss") or not record.evals:
        return None
    value = metric_values(record)[-1]
    return value if record.evals[-1].samples >= suite.budget.samples and math.isfinite(
        value) else None


def _signed(record: TrialRecord, value: float) -> float:
    """Return the metric with a sign such that more is better; −inf for NaN."""
    if math.isnan(value):
        return -math.inf
    return value if record.trial.suite.target.direction == "max" else -value


def best_metric(record: TrialRecord) -> float:
    """Returns the best validation metric of any evaluation, signed so that more is better.

    For a metric that is minimised the sign is turned. −inf without a number to compare.
    """
    return max((_signed(record, value) for value in metric_values(record)), default=-math.inf)
