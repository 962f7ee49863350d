"""What optimizers compete in: bills of R trainings, modelled time on a network, memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts.stats.comparison import Bill
from bench_apts.stats.projection import (
    COLLECTIVES,
    Network,
    Scaling,
    project,
    work,
)

from ..cells import memory
from .contest import Entrant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.stats.projection import Fabric

    from ..cells import Cell
    from ..tuning.pool import Pool


def by_trainings(pool: Pool, trainings: int) -> Entrant | None:
    """Return an entrant by the expected bill of R trainings.

    At R = 1 it is the expected cost, the ERT of its draws; else ``Pool.bill``.

    Args:
        pool: Its trials.
        trainings: R, at least 1.

    Returns:
        None where the frozen configuration was not trained again on fresh seeds.
    """
    cell = pool.cell
    if trainings == 1:
        return _entrant(cell, cell.draws, Bill(pool.spent, pool.cost))
    return _entrant(cell, cell.seeds, pool.bill.bill(trainings)) if pool.bill else None


def by_network(cell: Cell, fabric: Fabric, alone: float) -> Entrant:
    """An entrant by the expected modelled time to the target, all its draws billed.

    Args:
        cell: At N = 2 or more.
        fabric: What connects all ranks.
        alone: Seconds in which one rank alone computes a sample.
    """
    spent, cost = [], []
    for record in cell.draws:
        done = work(record, alone)
        if done is None:
            # It took no step, so there is nothing to bill.
            spent.append(0.0)
            cost.append(math.inf)
            continue
        found = project(done, done.ranks, Scaling.strong, Network(fabric))
        assert found is not None  # the minibatch is the recorded one
        spent.append(found.steps * found.step_s)
        cost.append(found.to_target_s)
    return _entrant(cell, cell.draws, Bill(spent, cost))


def projectable(cell: Cell) -> bool:
    """Says whether the draws' traffic was counted and consists of collectives with a model."""
    return not any(record.uncounted for record in cell.draws) and not {
        name for record in cell.draws for event in record.evals[-1:]
        for name in event.comm.get("train", {})}.difference(COLLECTIVES)


def by_memory(cell: Cell) -> Entrant:
    """An entrant by the mean over seeds of the memory of a rank.

    Infinite where the median seed missed the target: to need little and fail is no answer.
    """
    peaks = [float(memory(record)) for record in cell.seeds]
    reached = all(peaks) and math.isfinite(cell.to_target("train_s").median)
    # The mean of the peaks: every seed "reaches the target" at its peak, or none does.
    bill = Bill(peaks, peaks if reached else [math.inf] * len(peaks))
    # Bytes of tensors are counted, and depend on no seed; what a gauge says scatters.
    counted = reached and len(set(peaks)) == 1 and all(r.trial.device == "cpu" for r in cell.seeds)
    return replace(_entrant(cell, cell.seeds, bill), counted=counted)


def _entrant(cell: Cell, records: Sequence[TrialRecord], bill: Bill) -> Entrant:
    return Entrant(cell, bill, tuple(record.trial.seeds for record in records))
