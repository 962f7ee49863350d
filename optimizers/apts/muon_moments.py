"""Muon's direction for hidden matrices, with Adam's for all other parameters."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch

from bench_apts.optimizers.apts.moments import Moments

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.flat_problem import FlatBuffers

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the odd polynomial that one iteration applies to the singular values: Jordan et al., Muon
(2024, https://kellerjordan.github.io/posts/muon)."""

_ITERATIONS = 5

_TINY = 1e-7
"""Added to norms that are divided by."""


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return U Vᵀ of the singular value decompositions U Σ Vᵀ, roughly.

    Newton-Schulz iterations of the quintic polynomial of Jordan et al. (2024): singular values
    come out between 0.7 and 1.2; those far below a hundredth of the matrix norm come out smaller.

    Args:
        matrices: ``(k, r, c)``.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _TINY)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def muon_rows(parameter: torch.Tensor) -> int:
    """Return how many rows of a matrix a parameter is in memory: its outermost dimension.

    The rows of a kernel are its output channels, also in channels_last; a matrix whose columns
    lie one after another is taken as its transpose, of which the step is the transpose too.

    Raises:
        ValueError: It has fewer than two dimensions.
    """
    if parameter.dim() < 2:
        raise ValueError(f"direction='muon' is for matrices, but a parameter has the shape "
                         f"{tuple(parameter.shape)}")
    strides = torch.empty_like(parameter, device="meta").stride()
    return parameter.shape[max(range(parameter.dim()), key=lambda i: (
        strides[i] if parameter.shape[i] > 1 else 0, -i))]


class MuonMoments(Moments):
    """Moments whose steps of some parameters, taken as matrices, are orthogonalised.

    Such a step is 0.2 √max(r, c) of the orthogonalised first moment with Nesterov's look-ahead,
    whose root mean square is about that of Adam's step (Liu et al., arXiv 2502.16982, equation
    4): one trust-region radius serves both.

    Args:
        flat: As for ``Moments``.
        beta1: Decay of the first moment, of matrices too.
        beta2: As for ``Moments``.
        rows: Of each parameter with elements, in their order: r of a matrix, 0 for Adam's
            direction. The elements in memory are r rows of equal length.
    """

    def __init__(
        self, flat: FlatBuffers, beta1: float, beta2: float, rows: list[int]
    ) -> None:
        super().__init__(flat, beta1, beta2)
        self._rows = rows
        parts = [torch.split(vector, flat.sizes)
                 for vector in (flat.values, self._first, self._second)]
        self._values, self._firsts, self._seconds = (
            [part for part, r in zip(vector, rows, strict=True) if not r] for vector in parts)
        self._counts = [self._count] * len(self._values)
        shapes = {i: (r, flat.sizes[i] // r) for i, r in enumerate(rows) if r}
        # Matrices of one shape are orthogonalised together.
        self._alike = [list(group) for _, group in groupby(
            sorted(shapes, key=shapes.__getitem__), key=shapes.__getitem__)]
        self._shapes = shapes
        self._matrices = {i: parts[0][i].view(shape) for i, shape in shapes.items()}
        self._momenta = {i: parts[1][i].view(shape) for i, shape in shapes.items()}

    def step(self, length: float) -> None:
        """Count the gradients in and move the values against both directions."""
        gradients = torch.split(self._flat.payload, self._flat.sizes) if self._flat.collects \
            else self._flat.gradients
        self._adam([g for g, r in zip(gradients, self._rows, strict=True) if not r], length)
        beta = self._betas[0]
        for numbers in self._alike:
            ahead = []
            for i in numbers:
                gradient, momentum = gradients[i].view(self._shapes[i]), self._momenta[i]
                momentum.lerp_(gradient, 1 - beta)
                ahead.append(torch.lerp(momentum, gradient, 1 - beta))
            scale = 0.2 * max(self._shapes[numbers[0]]) ** 0.5
            for i, direction in zip(numbers, orthogonalize(torch.stack(ahead)), strict=True):
                self._matrices[i].sub_(direction, alpha=length * scale)

    def share(self, travel: float, sharing: float) -> None:
        """Move the first moments towards the ranks' mean.

        Of matrices the mean displacement gives the direction alone: it is scaled to the norm of
        this rank's moment.
        """
        own = {i: momentum.clone() for i, momentum in self._momenta.items()}
        super().share(travel, sharing)
        if not (self._steps and travel):
            return
        moved = torch.split(self._flat.payload, self._flat.sizes)
        for i, momentum in self._momenta.items():
            step = moved[i].view(self._shapes[i])
            norms = [torch.linalg.matrix_norm(x) for x in (own[i], step)]
            torch.sub((1 - sharing) * own[i], sharing * norms[0] / (norms[1] + _TINY**2) * step,
                      out=momentum)
