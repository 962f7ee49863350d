"""Across world sizes: parallel efficiency of reaching a target, and tuning once or at each N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class MeasuredTraining(NamedTuple):
    """What one training took to the target, infinite for a miss.

    Attributes:
        ranks: World size.
        seconds: Training seconds.
        samples: Samples processed by all ranks together.
    """

    ranks: int
    seconds: float
    samples: float


class Efficiency(NamedTuple):
    """The two factors of E = N0·T_N0 / (N·T_N).

    Attributes:
        hardware: Samples a second and rank, over those at N0: what communication costs.
        statistical: Samples to the target at N0, over those at N: what parallelism costs the
            method itself.
    """

    hardware: float
    statistical: float

    @property
    def total(self) -> float:
        """E: 1 where N ranks reach the target N / N0 times as fast as N0."""
        return self.hardware * self.statistical


def efficiency(base: MeasuredTraining, scaled: MeasuredTraining) -> Efficiency | None:
    """Compare two trainings to the same accuracy.

    None where one of them did not get there, or where the untrained model already met the target:
    no time and no samples have no ratio.

    Args:
        base: At N0 ranks.
        scaled: At N ranks.

    Raises:
        ValueError: A number is negative.
    """
    numbers = (base.seconds, base.samples, scaled.seconds, scaled.samples)
    if min(numbers) < 0:
        raise ValueError(f"times and samples are not negative, got {base} and {scaled}")
    if not all(map(math.isfinite, numbers)) or not all(numbers):
        return None
    one, other = (run.samples / run.seconds / run.ranks for run in (base, scaled))
    return Efficiency(other / one, base.samples / scaled.samples)


def transfer_regret(transferred: float, native: float) -> float:
    """Return the transfer regret, ``ERT_N(best at N0) / ERT_N(best at N)``.

    Args:
        transferred: Expected cost at N of the configuration that was chosen at N0; infinite if
            it never reached the target there.
        native: That of the configuration chosen at N, in the same currency.

    Returns:
        1 where transferring costs nothing, infinite where only the native configuration hits,
        or hits at no cost, 0 where only the transferred one does, NaN where neither does: that
        ratio is unknown.

    Raises:
        ValueError: A cost is negative, or is unknown (NaN).
    """
    for value in (transferred, native):
        if not value >= 0:
            raise ValueError(f"an expected cost must not be negative, got {value}")
    if math.isinf(native):
        return math.nan if math.isinf(transferred) else 0.0
    if not native:
        return math.inf if transferred else 1.0
    return transferred / native


class WorldSizeCosts(NamedTuple):
    """Costs at one world size, in a currency that can be summed over world sizes.

    Attributes:
        ranks: World size N.
        tuned: Bill of tuning here, the first training that reaches the target among it: of all
            tuning trials, or their ERT.
        native: ERT of the configuration chosen here, from fresh trainings.
        transferred: ERT here of the configuration chosen at the smallest N, carried over by the
            stated rule; not read at the smallest N itself.
    """

    ranks: int
    tuned: float
    native: float
    transferred: float


class TransferTotals(NamedTuple):
    """Totals of both ways to tune; infinite where a target was never reached.

    Attributes:
        tune_each: Tuning again at each N and training R times there.
        transfer: Tuning at the smallest N alone, and training R times at each N.
    """

    tune_each: float
    transfer: float


def transfer_totals(places: Sequence[WorldSizeCosts], trainings: int = 1) -> TransferTotals:
    """Add up what R trainings at each world size cost, tuning included.

    Tuning at N yields the first training there. With a transferred configuration all R trainings
    are paid, ``R · ERT_N(best at N0)``.

    Args:
        places: Costs at each world size, in any order.
        trainings: Trainings R wanted at each N, at least 1.

    Raises:
        ValueError: No world size, one twice, or R below 1.
    """
    if trainings < 1:
        raise ValueError(f"trainings must be at least 1, got {trainings}")
    ordered = sorted(places)
    if not ordered or len({place.ranks for place in ordered}) < len(ordered):
        raise ValueError("each world size must be given once, and one at least")
    each = [place.tuned + _times(trainings - 1, place.native) for place in ordered]
    moved = [_times(trainings, place.transferred) for place in ordered[1:]]
    return TransferTotals(math.fsum(each), math.fsum([each[0], *moved]))


def _times(number: int, cost: float) -> float:
    # Not training at all costs nothing, whatever it would cost.
    return number * cost if number else 0.0
