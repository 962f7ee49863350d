"""Learning-rate schedules over a known horizon."""

from __future__ import annotations

import math

from bench_apts.contract import Hyperparameter

WARMUP = Hyperparameter(0.0, "share of the budget spent warming up", least=0)
"""The knob of ``cosine``."""


def cosine(step: int, steps: int, warmup: float = 0.0) -> float:
    """Return the factor on the peak learning rate: linear warm-up, then half a cosine to zero.

    The cosine is that of Loshchilov and Hutter, SGDR, arXiv 1608.03983, equation 5, without
    restarts.

    Args:
        step: The step about to be taken, from 0.
        steps: Steps in the whole budget.
        warmup: Share of the budget spent warming up.
    """
    ramp = warmup * steps
    if step < ramp:
        return (step + 1) / (ramp + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - ramp) / max(1.0, steps - ramp))))
