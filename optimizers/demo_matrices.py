"""DeMo of ``pytorch_optimizer`` for parameters of any number of dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pytorch_optimizer import DeMo

if TYPE_CHECKING:
    from collections.abc import Iterable


class MatrixDeMo(DeMo):
    """DeMo that sees kernels of convolutions as matrices, and scalars as vectors.

    Args:
        parameters: Dense tensors.
        options: Those of ``DeMo``.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **options: Any) -> None:
        self._pairs = [(p, p if p.dim() in (1, 2) else torch.nn.Parameter(as_matrix(p.detach())))
                       for p in parameters if p.requires_grad]
        super().__init__([matrix for _, matrix in self._pairs], **options)

    def step(self) -> None:  # type: ignore[override]
        """Take one step along the gradients that the parameters hold."""
        for parameter, matrix in self._pairs:
            if matrix is not parameter:
                gradient = parameter.grad
                matrix.grad = None if gradient is None else as_matrix(gradient)
        super().step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the parameters."""
        for parameter, _ in self._pairs:
            parameter.grad = None


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view with one row for each element of the first dimension.

    Args:
        tensor: Dense. Further dimensions may lie in memory in any order (channels_last).
    """
    if tensor.dim() == 0:
        return tensor.view(1)
    strides = tensor.stride()
    order = sorted(range(1, tensor.dim()), key=lambda place: -strides[place])
    shape = tensor.shape[0], tensor[:1].numel()
    return tensor.permute(0, *order).view(shape)
