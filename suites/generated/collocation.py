"""Points for Poisson's equation on the unit square, whose solution is known.

-(u_xx + u_yy) = f in (0, 1)^2 and u = 0 on its boundary, with f = 2 pi^2 u and the solution
u = sin(pi x) sin(pi y).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.configuration import require_positive
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws, sine_of_pi_times

if TYPE_CHECKING:
    from numpy.typing import NDArray


def solution(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return u at points (n, 2) of the unit square, float64 (n, 1)."""
    values = sine_of_pi_times(points.astype(np.float64))
    return values[:, :1] * values[:, 1:]


def collocation(points: int = 4_000, grid: int = 50, seed: int = 0) -> GeneratedSplits:
    """Return points of the square, and the solution there.

    Args:
        points: The number of training points. Every fifth lies on the boundary, and in the order
            of the samples these are spread at random.
        grid: The number of test points along each side, at the centres of equal squares. As many
            random points validate.
        seed: Determines the random points.

    Returns:
        Inputs float32 (n, 2), points; on the boundary, and nowhere else, a coordinate is exactly
        0 or 1. Targets float32 (n, 1): u, from which the residuals need no more than f = 2 pi^2 u
        and the values on the boundary. There is a split ``validation``. The metric is the relative
        L2 error, ``relative_l2``: ``floor`` 0, ``baseline`` 1 (of u = 0).

    Raises:
        UserError: A number of points is not a positive integer.
    """
    require_positive("data 'collocation'", points=points, grid=grid)
    draws = PortableDraws("collocation", seed)
    boundary = draws.orders(1, points)[0] % 5 == 0
    trained = _inside(draws, points)
    side = draws.integers(4, points)
    for axis in (0, 1):
        on_side = boundary & (side // 2 == axis)
        trained[on_side, axis] = side[on_side] % 2
    centres = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(centres, centres, indexing="ij")
    tested = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    validated = _inside(PortableDraws("collocation validation", seed), grid * grid)
    return GeneratedSplits({
        name: (places, solution(places).astype(np.float32))
        for name, places in (("train", trained), ("validation", validated), ("test", tested))
    }, 0.0, 1.0)


def _inside(draws: PortableDraws, number: int) -> NDArray[np.float32]:
    """Draw points of the open square, multiples of 2**-24: float32 (number, 2)."""
    return ((draws.integers(2**24 - 1, number, 2) + 1) * 2.0**-24).astype(np.float32)


def relative_l2(predicted: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the L2 norm of the error over that of the expected values."""
    return float(np.linalg.norm(predicted - expected) / np.linalg.norm(expected))
