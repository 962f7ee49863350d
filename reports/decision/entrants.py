"""What optimizers compete in: bills of R trainings, modelled time on a network, memory."""

from __future__ import annotations

import math
import statistics
import zlib
from functools import cache
from typing import TYPE_CHECKING

from bench_apts.stats.bootstrap import RESAMPLES, erts, resampled
from bench_apts.stats.projection import (
    COLLECTIVES,
    Network,
    Scaling,
    project,
    work,
)
from bench_apts.stats.tuning import ert

from ..cells import peak_memory
from .contest import Entrant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.records import TrialRecord
    from bench_apts.stats.amortisation import Bill
    from bench_apts.stats.bootstrap import Floats
    from bench_apts.stats.projection import Fabric

    from ..cells import Cell
    from ..tuning.pool import Pool


def by_cost(pool: Pool) -> Entrant:
    """An entrant by the expected cost to the target, tuning included: the ERT of its draws."""
    return _entrant(pool.cell, pool.cell.draws, pool.ert.cost,
                    _resampling(pool.spent, pool.cost))


def by_trainings(pool: Pool, bill: Bill, trainings: int) -> Entrant:
    """An entrant by the expected bill of R trainings, tuning included.

    Args:
        pool: Its trials.
        bill: Its bill, ``pool.bill``.
        trainings: R, at least 1.
    """
    # Equal draws of two optimizers would pass for pairs.
    own = zlib.crc32(pool.cell.label.encode())

    def resample(seed: int) -> Floats:
        return bill.drawn(trainings, seed + own)

    return _entrant(pool.cell, pool.cell.seeds, bill.at(trainings), resample)


def by_network(cell: Cell, fabric: Fabric, alone: float | None) -> Entrant:
    """An entrant by the expected modelled time to the target, all its draws billed.

    Args:
        cell: At N = 2 or more.
        fabric: What connects all ranks.
        alone: Training seconds of one sample at N = 1, if known.
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
    return _entrant(cell, cell.draws, ert(spent, cost).cost, _resampling(spent, cost))


def projectable(cell: Cell) -> bool:
    """Says whether the draws' traffic was counted and consists of collectives with a model."""
    return not any(record.uncounted for record in cell.draws) and not {
        name for record in cell.draws for event in record.evals[-1:]
        for name in event.comm.get("train", {})}.difference(COLLECTIVES)


def by_memory(cell: Cell) -> Entrant:
    """An entrant by the mean over seeds of the peak memory of a rank.

    Infinite where the median seed missed the target: to need little and fail is no answer.
    """
    peaks = [float(peak_memory(record)) for record in cell.seeds]
    reached = all(peaks) and math.isfinite(cell.to_target("train_s").median)
    value = statistics.fmean(peaks) if reached else math.inf
    return _entrant(cell, cell.seeds, value,
                    _resampling(peaks, peaks if reached else [math.inf] * len(peaks)))


def _resampling(spent: Sequence[float],
                cost: Sequence[float]) -> Callable[[int], Floats | None]:
    def resample(seed: int) -> Floats | None:
        drawn = resampled(len(spent), None, RESAMPLES, seed)
        return None if drawn is None else erts(spent, cost, drawn)

    return resample


def _entrant(cell: Cell, records: Sequence[TrialRecord], value: float,
             resample: Callable[[int], Floats | None]) -> Entrant:
    # The best one is compared with every other.
    return Entrant(cell, value, tuple(record.trial.seeds for record in records), cache(resample))
