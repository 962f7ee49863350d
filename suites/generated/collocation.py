"""Points for Poisson's equation on the unit square, whose solution is known.

-(u_xx + u_yy) = f in (0, 1)^2 and u = 0 on its boundary, with f = 2 pi^2 u and the solution
u = sin(pi x) sin(pi y).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sizes import positive
from .draws import Draws, Splits, sine_of_pi_times

if TYPE_CHECKING:
    from numpy.typing import NDArray


def solution(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return u at points (n, 2) of the unit square, float64 (n, 1)."""
    values = sine_of_pi_times(points.astype(np.float64))
    return values[:, :1] * values[:, 1:]


def collocation(points: int = 4_000, grid: int = 50, seed: int = 0) -> Splits:
    """Return random points to train on and a regular grid to test on.

    Args:
        points: The number of training points. Every fifth lies on the boundary, and in the order
            of the samples these are spread at random.
        grid: The number of test points along each side, at the centres of equal squares.
        seed: Determines the points.

    Returns:
        Inputs: ``points`` float32 (n, 2), ``boundary`` bool (n,). Training targets float32 (n, 1):
        u at points on the boundary, f at the others. Test targets float32 (n, 1): u. The metric is
        the relative L2 error, ``relative_l2``: ``floor`` 0, ``baseline`` 1 (of u = 0).

    Raises:
        UserError: A number of points is not a positive integer.
    """
    positive("data 'collocation'", points=points, grid=grid)
    draws = Draws("collocation", seed)
    boundary = draws.orders(1, points)[0] % 5 == 0
    places = draws.uniforms(points, 2).astype(np.float32)
    side = draws.integers(4, points)
    ends = (side % 2).astype(np.float32)
    for axis in (0, 1):
        on_side = boundary & (side // 2 == axis)
        places[on_side, axis] = ends[on_side]
    u = solution(places)
    targets = np.where(boundary[:, None], 0.0, 2 * math.pi**2 * u).astype(np.float32)

    centres = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(centres, centres, indexing="ij")
    tested = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    return {
        "train": ({"points": places, "boundary": boundary}, targets),
        "test": ({"points": tested, "boundary": np.zeros(len(tested), bool)},
                 solution(tested).astype(np.float32)),
        "floor": 0.0, "baseline": 1.0,
    }


def relative_l2(predicted: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the L2 norm of the error over that of the expected values."""
    return float(np.linalg.norm(predicted - expected) / np.linalg.norm(expected))
