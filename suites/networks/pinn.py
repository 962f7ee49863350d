"""A physics-informed network for Poisson's equation, and its residuals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench_apts.core.configuration import require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites import models

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def pinn(inputs: int = 2, outputs: int = 1, hidden: Sequence[int] = (50, 50, 50),
         activation: str = "tanh") -> nn.Module:
    """Return an MLP from points, float (b, inputs), to values (b, outputs).

    Weights are those of Glorot and Bengio (normal), as usual for these networks, and biases 0.

    Raises:
        UserError: A size is not a positive integer, or the activation is unknown or "relu", whose
            second derivative is zero.
    """
    require_positive("model 'pinn'", inputs=inputs, outputs=outputs)
    if activation == "relu":
        raise UserError("model 'pinn': activation = 'relu' has no second derivative; use 'tanh'")
    model = models.mlp((inputs,), outputs, hidden, activation=activation)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return model


def laplacian(function: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function and the sum of its second derivatives, both differentiable.

    Args:
        function: From points (b, d) to values (b, 1), each from its own point.
        points: Where, float (b, d).

    Returns:
        Values and Laplacians, both (b, 1).
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        values = function(points)
        (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
        second = torch.stack([
            torch.autograd.grad(slopes[:, axis].sum(), points, create_graph=True)[0][:, axis]
            for axis in range(points.shape[1])], dim=1)
    return values, second.sum(dim=1, keepdim=True)


def poisson_losses(model: Callable[[Tensor], Tensor], points: Tensor, targets: Tensor,
                   weight: float = 100.0) -> Tensor:
    """Return the squared residuals of -Laplacian(u) = f and of the boundary condition.

    f is that of the data ``generated.collocation``, 2 pi^2 times their solution.

    Args:
        model: From points (b, 2) to values (b, 1).
        points: Points of the unit square, float (b, 2).
        targets: The solution there, float (b, 1).
        weight: The factor of the boundary's residuals, whose scale is smaller than f's.

    Returns:
        Losses (b,): weight (u - target)^2 at points with a coordinate of exactly 0 or 1,
        (-Laplacian(u) - f)^2 at all others.
    """
    values, second = laplacian(model, points)
    inside = (-second - 2 * math.pi**2 * targets).square()
    boundary = weight * (values - targets).square()
    on_boundary = ((points == 0) | (points == 1)).any(dim=1, keepdim=True)
    return torch.where(on_boundary, boundary, inside)[:, 0]
