"""What costs are counted in."""

from __future__ import annotations

from typing import Literal

Currency = Literal[
    "core_seconds", "train_s", "wall_s", "wire_bytes", "gradient_evaluations", "flops", "samples",
    "cpu_s",
]

CURRENCIES: tuple[Currency, ...] = (
    "core_seconds", "train_s", "wall_s", "wire_bytes", "gradient_evaluations", "flops", "samples",
    "cpu_s",
)
"""``core_seconds`` are N × ``train_s`` (GPU-seconds on cuda), ``train_s`` and ``wall_s`` seconds,
``wire_bytes`` the ideal bytes that one rank sent in phase train, ``gradient_evaluations`` the
backward passes of the busiest rank, ``flops`` and ``samples`` those of all ranks together, and
``cpu_s`` the CPU seconds that all ranks together spent in training.

Records of before operations were counted have no ``flops``, those whose traffic could not be
measured no ``wire_bytes``, and those of several ranks of before the CPU seconds of all ranks were
kept no ``cpu_s``: they are NaN there, which says *unknown* (``known``) and which every estimator
refuses."""


def headline(device: str) -> Currency:
    """Return the currency that comparisons lead with on a device.

    On CUDA these are GPU-seconds: each rank has a device of its own. Ranks on CPUs share cores
    with one another and with whatever else runs, so that their seconds measure the machine;
    samples count every pass over a sample, and see a larger minibatch.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    return "core_seconds" if device == "cuda" else "samples"
