"""The rule by which tuning freezes a configuration (MEASUREMENT, section 5: freeze)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.stats.costs import hit_bracket, metric_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.records import TrialRecord

_BROKEN = frozenset({"diverged", "oom", "error"})


def select(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Chooses the trial whose configuration is frozen, by validation alone.

    The fewest samples to the first hit of the full target win; if no trial hit it, of the next
    lower level (0.99, then 0.95 by default); if none hit any, the best validation metric of any
    evaluation. Ties go to the lower repetition number. Trials that diverged or failed count
    only if no other has an evaluation.

    Args:
        trials: Tuning trials of one optimizer on one suite at one N.

    Returns:
        The chosen trial, or None if no trial has any evaluation.
    """
    evaluated = [record for record in trials if record.evals]
    sound = [record for record in evaluated
             if record.end is None or record.end.status not in _BROKEN]
    candidates = sound or evaluated
    if not candidates:
        return None
    for level in reversed(candidates[0].trial.suite.target.every_level):
        hits = [(record.evals[found[1]].samples, record.trial.repetition, order)
                for order, record in enumerate(candidates)
                if (found := hit_bracket(record, level)) is not None]
        if hits:
            return candidates[min(hits)[-1]]
    return min(candidates, key=lambda record: (-best_metric(record), record.trial.repetition))


def best_metric(record: TrialRecord) -> float:
    """Returns the best validation metric of any evaluation, signed so that more is better.

    For a metric that is minimised the sign is turned. −inf without a number to compare.
    """
    sign = 1.0 if record.trial.suite.target.direction == "max" else -1.0
    return max((sign * value for value in metric_values(record) if not math.isnan(value)),
               default=-math.inf)
