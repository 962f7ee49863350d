"""Whether a trial ends at an evaluation, and how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.distributed as dist

from bench_apts.stats.hitting import bracket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.records import Eval, Status
    from bench_apts.core.spec import Suite
    from bench_apts.trial.pruning import Watch

_DIVERGED = 10.0
"""A loss above this many times the initial one counts as diverged (docs/measurement.md, 1)."""


def decided(
    suite: Suite, evals: Sequence[Eval], loss: float, loss_sum: float, watch: Watch | None,
    ranks: int,
) -> Status | None:
    """Return how the trial ends after its latest evaluation, or None if it goes on.

    Rank 0 decides and all ranks learn it; they call this together.

    Args:
        suite: With the budget and the target.
        evals: All evaluations so far.
        loss: The validation loss of the latest one, which may not be finite.
        loss_sum: Sum of the training losses since the one before, of all ranks.
        watch: Who may give up a tuning trial early; only rank 0 has one.
        ranks: World size N.
    """
    status = _decided(suite, evals, loss, loss_sum, watch)
    if ranks > 1:
        box = [status]
        dist.broadcast_object_list(box, src=0)
        status = box[0]
    return status


def _decided(
    suite: Suite, evals: Sequence[Eval], loss: float, loss_sum: float, watch: Watch | None
) -> Status | None:
    budget, target, last = suite.budget, suite.target, evals[-1]
    hit = bracket([e.validation.get(target.metric, math.nan) for e in evals],
                  target.reached, suite.evaluation.consecutive)
    initial = evals[0].validation.get("loss", math.nan)
    if not math.isfinite(loss_sum) or not loss <= initial + (_DIVERGED - 1) * abs(initial):
        return "diverged"
    if last.samples >= budget.samples:
        return "hit" if hit else "miss"
    if last.train_s >= budget.seconds:
        return "hit" if hit else "timeout"
    if watch and last.step and not hit and watch.hopeless(
            len(evals) - 1, target.signed(last.validation)):
        return "pruned"
    return None
