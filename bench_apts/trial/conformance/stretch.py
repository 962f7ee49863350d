"""A stretch of steps between two pauses: only training may be billed in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench_apts.core.errors import ContractError
from bench_apts.meters.clock import TOLERANCE, TOLERANCE_S

if TYPE_CHECKING:
    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CommMeter

_now = time.perf_counter


class Stretch:
    """Compares the ledger and the meter with a second clock and with what they may change.

    A plug-in is not given clock and meter; one that looks for them in the interpreter could bill
    its steps to another part of the ledger, or its bytes to another phase. Between steps ranks may
    wait for data.

    Args:
        clock: The trial's clock, in its part ``train``.
        meter: The trial's meter, in its phase ``train``.

    Attributes:
        now: The second clock.
        steps_s: Seconds spent in steps by it; who runs them adds to it.
    """

    def __init__(self, clock: Clock, meter: CommMeter) -> None:
        self._clock, self._meter = clock, meter
        self._train_s, self._others = clock.training()
        self._calls = self._calls_outside_training()
        self.now, self.steps_s = _now, 0.0

    def close(self) -> None:
        """Compare the clocks and what was counted.

        Raises:
            ContractError: Something other than training was billed, or less time than the steps
                took.
        """
        train_s, others = self._clock.training()
        billed = train_s - self._train_s
        if others != self._others or billed < self.steps_s * (1 - TOLERANCE) - TOLERANCE_S:
            raise ContractError(
                f"its steps took {self.steps_s:.3f} s by a second clock and {billed:.3f} s of "
                "training were billed: the trial's clock was changed from inside a step")
        if self._calls_outside_training() != self._calls:
            raise ContractError("collectives of its steps were counted in another phase than "
                                "training: the trial's meter was changed from inside a step")

    def _calls_outside_training(self) -> int:
        return sum(calls for phase, calls in self._meter.calls_by_phase().items()
                   if phase != "train")
