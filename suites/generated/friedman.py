"""Friedman's first regression problem (Annals of Statistics 19, 1991), with known noise.

y = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5, shifted and scaled to mean 0 and variance 1,
plus noise. The features are uniform in [0, 1]; the rest of them says nothing about y.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.configuration import require_at_least, require_natural, require_positive
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws, sine_of_pi_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN, DEVIATION = 14.413297342419835, 4.8812358856524325
"""Of the function without noise, over the unit cube."""


def clean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scaled function without noise for features (n, at least 5), float64 (n,)."""
    y = (10 * sine_of_pi_times(x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) * (x[:, 2] - 0.5)
         + 10 * x[:, 3] + 5 * x[:, 4])
    scaled: NDArray[np.float64] = (y - MEAN) / DEVIATION
    return scaled


def friedman(rows: int = 20_000, test: int = 5_000, noise: float = 0.2, nuisance: int = 5,
             seed: int = 0) -> GeneratedSplits:
    """Return rows of features and one noisy target each.

    Args:
        rows: The number of training rows.
        test: The number of test rows.
        noise: The standard deviation of the noise; that of the signal is 1.
        nuisance: The number of features that do not matter, besides the five that do.
        seed: Determines all draws.

    Returns:
        Inputs float32 (n, 5 + nuisance) in [0, 1], targets float32 (n, 1). The metric is the root
        mean square error: ``floor`` is ``noise``, ``baseline`` that of the mean of the targets.

    Raises:
        UserError: A number of rows is not a positive integer, or ``noise`` or ``nuisance`` is
            negative.
    """
    require_positive("data 'friedman'", rows=rows, test=test)
    require_at_least("data 'friedman'", 0, noise=noise)
    require_natural("data 'friedman'", nuisance=nuisance)

    def draw(name: str, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        draws = PortableDraws(f"friedman {name}", seed)
        x = draws.uniforms(number, 5 + nuisance).astype(np.float32)
        y = clean(x.astype(np.float64)) + noise * draws.normals(number)
        return x, y.astype(np.float32)[:, None]

    return GeneratedSplits({"train": draw("train", rows), "test": draw("test", test)},
                           noise, math.sqrt(1 + noise * noise))
