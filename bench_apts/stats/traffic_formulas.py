"""Bytes that known ways to train must send: formulas to hold the measured ones against.

docs/measurement.md, 3, "Known answers per optimizer step". With n parameters in float32 and N
ranks, P = 4n bytes and f = (N − 1)/N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench_apts.core.wire import ideal_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FLOAT = 4


@dataclass(frozen=True)
class Formula:
    """What one step, or one round of local steps, sends.

    Attributes:
        words: The formula in ideal bytes sent per rank.
        unit: What it is for: an optimizer step, or an all-reduce of a method that chooses its
            rounds by itself.
        payloads: ``payloads(n, N)`` returns the payload in bytes, by collective.
    """

    words: str
    unit: Literal["step", "round"]
    payloads: Callable[[int, int], Mapping[str, int]]

    def ideal(self, parameters: int, ranks: int) -> dict[str, float]:
        """Return ideal bytes sent per rank and unit, by collective.

        Args:
            parameters: Number of trained parameters n.
            ranks: World size N.
        """
        return {collective: ideal_bytes(collective, payload, ranks)
                for collective, payload in self.payloads(parameters, ranks).items()}


def _partitioned(parameters: int, ranks: int) -> dict[str, int]:
    """Sums the gradient and a flag of 4 bytes; gathers parameters, padded to a multiple of 2N."""
    padded = 2 * ranks * math.ceil(parameters / (2 * ranks))
    return {"all_reduce": _FLOAT * parameters + 4, "all_gather": _FLOAT * padded}


GRADIENT_SUM = Formula("2f·P", "step", lambda n, _: {"all_reduce": _FLOAT * n})
"""DistributedDataParallel; a model's buffers come on top, by broadcast."""

ZERO_1_2 = Formula("3f·P", "step", _partitioned)
"""DeepSpeed's stages 1 and 2, with one step for each reduction."""

ZERO_3 = Formula("2f·P", "step", lambda n, _: {
    "all_reduce": 8, "all_gather": _FLOAT * n, "reduce_scatter": _FLOAT * n})
"""DeepSpeed's stage 3 where parameters stay gathered from step to step (3f·P otherwise). It pads
each tensor to a multiple of N, which only their shapes would tell."""

LOCAL_STEPS = Formula("2f·P", "round", lambda n, _: {"all_reduce": _FLOAT * n})
"""One all-reduce of n floats after some local steps."""

TRUST_REGION = Formula("2f·(P + 8)", "step", lambda n, _: {"all_reduce": _FLOAT * (n + 2)})
"""Gradient and loss in one all-reduce, the trial point's loss in another."""

DECOMPOSED = Formula("2f·(3P + 16)", "step", lambda n, _: {"all_reduce": _FLOAT * (3 * n + 4)})
"""The published APTS: 3n + 4 floats in four all-reduces."""
