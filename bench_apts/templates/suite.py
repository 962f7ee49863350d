"""Data and network of a suite; the TOML file in this folder names the two functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

Split = tuple[NDArray[np.float64], NDArray[np.int64]]


def data(samples: int, noise: float) -> dict[str, Split]:
    """Return points on two interleaved half circles; the target says which.

    Yours may read files instead; `bench_apts.suites.readers` does so for the usual formats.
    Without "validation", `[data] validation` says how many training samples are held back for it.
    """
    draw = np.random.default_rng(0)  # a seed: each call must return the same
    targets = np.arange(samples) % 2
    angles = draw.uniform(0, np.pi, samples) + np.pi * targets
    points = np.stack([np.cos(angles) + targets, np.sin(angles) + targets / 2], axis=1)
    points += noise * draw.normal(size=points.shape)
    first, second = samples // 3, samples * 2 // 3
    return {
        "train": (points[:first], targets[:first]),
        "validation": (points[first:second], targets[first:second]),
        "test": (points[second:], targets[second:]),
    }


def network(hidden: int) -> nn.Module:
    """Return an untrained network: 2 numbers in, one logit for each of 2 classes out."""
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))
