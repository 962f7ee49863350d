"""The trust-region subproblem of a low-rank quadratic model, solved exactly in small coordinates.

The orthonormal-basis approach of Brust, Erway, Marcia, *On solving L-SR1 trust-region
subproblems*, Comput. Optim. Appl. 66 (2017), 245-266, with the basis from an eigendecomposition
that drops dependent directions instead of a Cholesky factor that fails on them. Everything here
is float64 on the host and at most as large as the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_DEPENDENT = 1e-10
"""Eigenvalues of a correlation matrix below this share of the largest are rounding."""

_BESIDE = 1e-12
"""Share of ‖g‖² outside the basis that is rounding."""


@dataclass(frozen=True)
class Solution:
    """The minimiser p = −``scale``·g + Φ``along`` of the model over the ball.

    Attributes:
        scale: Factor of the gradient.
        along: ``(k,)``, coefficients of the columns of Φ.
        multiplier: σ ≥ 0 with (B + σI)p = −g and σ(δ − ‖p‖) = 0.
        reduction: −(gᵀp + ½pᵀBp), never negative.
        length: ‖p‖.
    """

    scale: float
    along: Array
    multiplier: float
    reduction: float
    length: float


def solve(
    gram: Array, weights: Array, base: float, slopes: Array, square: float, radius: float,
    dimension: int,
) -> Solution:
    """Minimises gᵀp + ½pᵀBp over ‖p‖₂ ≤ δ for B = γI + Φ diag(w) Φᵀ.

    Args:
        gram: ``(k, k)``, ΦᵀΦ; columns of Φ may depend on one another or be zero.
        weights: ``(k,)``, w.
        base: γ ≥ 0.
        slopes: ``(k,)``, Φᵀg.
        square: gᵀg.
        radius: δ > 0.
        dimension: n, the length of g.
    """
    basis, curvature = _spectrum(gram, weights)
    inside = basis.T @ slopes
    outside = max(0.0, square - float(inside @ inside))
    if outside <= _BESIDE * square or len(curvature) >= dimension:
        outside = 0.0
    values = base + curvature
    # The rest of the space is one more coordinate, along the gradient's part outside the basis.
    beside = len(curvature) < dimension
    coordinates = np.append(inside, math.sqrt(outside)) if beside else inside
    spectrum = np.append(values, base) if beside else values
    lowest = float(spectrum.min())
    shift, extra = _shift(spectrum - lowest, coordinates, lowest, radius)
    denominators = spectrum - lowest + shift
    step = np.zeros_like(coordinates)
    np.divide(-coordinates, denominators, out=step, where=denominators > 0)
    if extra:
        step[int(spectrum.argmin())] += extra
    reduction = -float(coordinates @ step + 0.5 * (spectrum * step) @ step)
    scale = 0.0
    if outside > 0:
        # p = −g∥/… within the basis and −g⊥/(γ + σ) beside it; g⊥ = g − Pg∥.
        scale = -float(step[-1]) / math.sqrt(outside)
    along = basis @ (step[: len(curvature)] + scale * inside)
    return Solution(scale, along, max(0.0, shift - lowest), max(0.0, reduction),
                    float(np.linalg.norm(step)))


def _spectrum(gram: Array, weights: Array) -> tuple[Array, Array]:
    """Returns E and t with ΦE orthonormal and Φ diag(w) Φᵀ = (ΦE) diag(t) (ΦE)ᵀ."""
    lengths = np.sqrt(np.maximum(np.diag(gram), 0.0))
    used = np.flatnonzero((lengths > 0) & (weights != 0))
    if not len(used):
        return np.zeros((len(gram), 0)), np.zeros(0)
    sizes = lengths[used]
    values, vectors = np.linalg.eigh(gram[np.ix_(used, used)] / np.outer(sizes, sizes))
    kept = values > _DEPENDENT * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    factor = np.sqrt(values)[:, None] * vectors.T  # QᵀΦ of unit columns
    inner = (factor * (weights[used] * sizes**2)) @ factor.T
    curvature, rotation = np.linalg.eigh((inner + inner.T) / 2)
    basis = np.zeros((len(gram), len(values)))
    basis[used] = (vectors / np.sqrt(values)) @ rotation / sizes[:, None]
    return basis, curvature


def _shift(
    above: Array, coordinates: Array, lowest: float, radius: float
) -> tuple[float, float]:
    """Finds μ = σ + λ_min, which unlike σ loses no digits near the hard case.

    Args:
        above: d = λ − λ_min ≥ 0.
        coordinates: The gradient in the eigenbasis.
        lowest: λ_min.
        radius: δ.

    Returns:
        μ ≥ max(0, λ_min), and how far to go along an eigenvector of λ_min in the hard case.
    """
    floor = max(0.0, lowest)
    size = float(np.linalg.norm(coordinates))
    bottom = float(np.linalg.norm(coordinates[above == 0]))
    if floor > 0 or bottom == 0:
        # No σ is needed, or the hard case: without a slope along the lowest eigenvectors.
        free = above + floor > 0
        length = float(np.linalg.norm(coordinates[free] / (above[free] + floor)))
        if length <= radius:
            hard = lowest < 0
            return floor, math.sqrt(max(0.0, radius**2 - length**2)) if hard else 0.0
    # ‖p(μ)‖ ≥ δ at each of these lower bounds and ≤ δ at the upper one.
    low = max(floor, bottom / radius, size / radius - float(above.max()))
    high = size / radius
    shift = low
    for _ in range(100):
        if shift <= 0:
            shift = high * 1e-12
        scaled = coordinates / (above + shift)
        length = float(np.linalg.norm(scaled))
        if abs(length - radius) <= 1e-14 * radius or not low < high:
            break
        low, high = (shift, high) if length > radius else (low, shift)
        # Newton on 1/‖p‖ − 1/δ, nearly linear in μ (Conn, Gould, Toint, section 7.3.1).
        slope = float((scaled**2 / (above + shift)).sum()) / length**3
        new = shift + (1 / radius - 1 / length) / slope
        shift = new if low <= new <= high else (low + high) / 2
    return shift, 0.0
