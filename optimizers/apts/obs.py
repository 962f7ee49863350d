"""The trust-region subproblem of a low-rank quadratic model, solved exactly in small coordinates.

The orthonormal-basis approach of Brust, Erway, Marcia, *On solving L-SR1 trust-region
subproblems*, Comput. Optim. Appl. 66 (2017), 245-266, with the basis from an eigendecomposition
that leaves dependent directions out instead of a Cholesky factor that fails on them.

Everything here is float64, at most as large as the memory, and stays on the device: shapes never
depend on values, what is left out is masked, and iterations are counted. The one exception is
``torch.linalg.eigh``, which on CUDA reads its own error flag.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_DEPENDENT = 1e-10
"""Eigenvalues of a correlation matrix below this share of the largest are rounding."""

_OUTSIDE = 1e-12
"""Share of ‖g‖² outside the basis that is rounding."""

_POINTS = 256
"""Trial values of a section of the secular equation."""

_TINY = torch.finfo(torch.float64).tiny


class Spectrum(NamedTuple):
    """Q = ΦE with orthonormal columns and Φ diag(w) Φᵀ = Q diag(t) Qᵀ.

    Attributes:
        basis: ``(k, k)``, E; columns that are left out are zero.
        curvature: ``(k,)``, t, likewise.
        present: ``(k,)``, which columns are not left out.
    """

    basis: torch.Tensor
    curvature: torch.Tensor
    present: torch.Tensor


class Solution(NamedTuple):
    """The minimiser p = −``scale``·g + Q``along`` of the model over the ball.

    Attributes:
        scale: Factor of the gradient, a scalar.
        along: ``(k,)``, coefficients of the columns of Q.
        multiplier: σ ≥ 0 with (B + σI)p = −g and σ(δ − ‖p‖) = 0, a scalar.
    """

    scale: torch.Tensor
    along: torch.Tensor
    multiplier: torch.Tensor


def spectrum(gram: torch.Tensor, weights: torch.Tensor) -> Spectrum:
    """Find an orthonormal basis of the span of Φ in which Φ diag(w) Φᵀ is diagonal.

    Args:
        gram: ``(k, k)``, ΦᵀΦ; columns of Φ may depend on one another or be zero.
        weights: ``(k,)``, w.
    """
    lengths = gram.diagonal().clamp_min(0.0).sqrt()
    unused = (lengths == 0) | (weights == 0)
    inverse = lengths.reciprocal().masked_fill(unused, 0.0)
    # Products that overflowed would make eigh raise.
    values, vectors = torch.linalg.eigh((inverse[:, None] * gram * inverse).nan_to_num(0.0))
    kept = values > _DEPENDENT * values[-1:]
    roots = values.masked_fill(~kept, 1.0).sqrt()
    factor = (vectors * roots * kept).T  # of QᵀΦ, for columns of unit length
    inner = (factor * (weights * lengths**2)) @ factor.T
    inner = ((inner + inner.T) / 2).nan_to_num(0.0)
    # Directions left out go to the end of the spectrum, clear of the others.
    size = torch.linalg.matrix_norm(inner)
    end = size.masked_fill(size == 0, 1.0) * 2
    curvature, rotation = torch.linalg.eigh(inner + torch.diag(end * ~kept))
    present = torch.arange(len(kept), device=kept.device) < kept.sum()
    basis = inverse[:, None] * ((vectors * (kept / roots)) @ rotation) * present
    return Spectrum(basis, curvature.masked_fill(~present, 0.0), present)


def solve(
    parts: Spectrum,
    base: torch.Tensor,
    inside: torch.Tensor,
    square: torch.Tensor,
    radius: torch.Tensor,
    dimension: int,
) -> Solution:
    """Minimise gᵀp + ½pᵀBp over ‖p‖₂ ≤ δ for B = γI + Q diag(t) Qᵀ.

    Args:
        parts: Which columns Q has, and t.
        base: γ ≥ 0, a scalar.
        inside: ``(k,)``, Qᵀg.
        square: gᵀg, a scalar; if it is not finite, neither is the solution.
        radius: δ > 0, a scalar.
        dimension: n, the length of g.
    """
    # The rest of the space is one more coordinate, along the gradient's part outside the basis.
    has_rest = parts.present.sum() < dimension
    outside = square - inside @ inside
    outside = outside.masked_fill((outside <= _OUTSIDE * square) | ~has_rest, 0.0).sqrt()
    coordinates = torch.cat([inside, outside[None]])
    exists = torch.cat([parts.present, has_rest[None]])
    values = torch.cat([parts.curvature + base, base[None]]).masked_fill(~exists, torch.inf)
    lowest, bottom = values.min(0)
    above = values - lowest
    shift, extra = _shift(above, coordinates, lowest, radius)
    step = -_quotient(coordinates, above + shift)
    step = step.scatter_add(0, bottom[None], extra[None])
    # p = −g∥/… within the basis and −g⊥/(γ + σ) outside it; g⊥ = g − Qg∥.
    scale = -_quotient(step[-1], outside)
    return Solution(scale, step[:-1] + scale * inside, (shift - lowest).clamp_min(0.0))


def _quotient(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Divide by what is not negative; 0/0 = 0."""
    return above / below.clamp_min(_TINY)


def _shift(
    above: torch.Tensor, coordinates: torch.Tensor, lowest: torch.Tensor, radius: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find μ = σ + λ_min, which unlike σ loses no digits near the hard case.

    Args:
        above: ``(k,)``, d = λ − λ_min ≥ 0; infinite where there is no such coordinate.
        coordinates: ``(k,)``, the gradient in the eigenbasis.
        lowest: λ_min, a scalar.
        radius: δ, a scalar.

    Returns:
        μ ≥ max(0, λ_min), and how far to go along an eigenvector of λ_min in the hard case.
    """
    floor = lowest.clamp_min(0.0)
    length = torch.linalg.vector_norm(_quotient(coordinates, above + floor))
    # Either no σ is needed, or it is the hard case: no slope along the lowest eigenvectors.
    settled = length <= radius
    rest = (radius**2 - length**2).masked_fill(~settled | (lowest >= 0), 0.0).sqrt()
    # ‖p(μ)‖ ≥ δ at the lower bound and ≤ δ at the upper one; they may differ by any power of ten.
    high = torch.linalg.vector_norm(coordinates) / radius
    low = torch.maximum(coordinates.masked_fill(above > 0, 0.0).abs().max() / radius, floor)
    low = torch.where(low > 0, low, high * 1e-100).log()
    width = high.log() - low
    parts = torch.linspace(0, 1, _POINTS, dtype=torch.float64, device=above.device)
    for _ in range(2):  # a bracket over 100 powers of ten shrinks to 0.4 %
        trials = torch.exp(low + width * parts)
        lengths = torch.linalg.vector_norm(coordinates / (above + trials[:, None]), dim=1)
        width = width / (_POINTS - 1)
        low = low + width * ((lengths >= radius).sum() - 1).clamp_min(0)
    shift = low.exp()
    for _ in range(3):  # and each of these doubles the digits
        # Newton on 1/‖p‖ − 1/δ, nearly linear and concave: from the left it never overshoots
        # (Conn, Gould, Toint, section 7.3.1).
        scaled = coordinates / (above + shift)
        squares = scaled * scaled
        square = squares.sum()
        slope = (squares / (above + shift)).sum()
        shift = shift + (square.sqrt() / radius - 1) * square / slope
    return torch.where(settled, floor, shift), rest
