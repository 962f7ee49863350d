"""Learning-rate schedules over a known horizon."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Choice, Hyperparameter, Uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WARMUP = Hyperparameter(0.0, "share of the budget spent warming up", least=0)


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


def linear_half(step: int, steps: int, warmup: float = 0.0) -> float:
    """Return the factor of APTS-S: linear warm-up, 1 to half of the budget, then linearly to zero.

    Args:
        step: The step about to be taken, from 0.
        steps: Steps in the whole budget.
        warmup: Share of the budget spent warming up.
    """
    ramp = warmup * steps
    return max(0.0, min((step + 1) / (ramp + 1), 1.0, 2 * (1 - step / max(1, steps))))


_SCHEDULES = {"cosine": cosine, "linear-half": linear_half}

KNOBS = {
    "schedule": Hyperparameter(
        "cosine", "of the learning rate: half a cosine, or full for half of the budget and then "
        "linearly to 0", options=tuple(_SCHEDULES), wide=Choice(tuple(_SCHEDULES))),
    "warmup": replace(WARMUP, wide=Uniform(0.0, 0.1)),
}


def find(values: Mapping[str, Any]) -> Callable[[int, int], float]:
    """Return the schedule that hyperparameters name; without them half a cosine."""
    return partial(_SCHEDULES[values.get("schedule", "cosine")],
                   warmup=values.get("warmup", 0.0))
