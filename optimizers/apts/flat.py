"""One contiguous buffer for all parameters and one for all gradients, with room for scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class FlatParameters:
    """Keeps parameters and their gradients in two flat buffers; the tensors become views.

    Args:
        parameters: All of one dtype on one device.
        slots: Scalars that travel at the end of the gradient buffer in the same collective.

    Attributes:
        values: ``(n,)``, the parameters.
        message: ``(n + slots,)``, the gradients and the scalars: what is all-reduced at once.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], slots: int) -> None:
        first = parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in parameters):
            raise ValueError("all parameters must have the same dtype and device")
        self._parameters = list(parameters)
        self.size = sum(p.numel() for p in parameters)
        self.values = torch.empty(self.size, dtype=first.dtype, device=first.device)
        self.message = torch.zeros(self.size + slots, dtype=first.dtype, device=first.device)
        self.attach()

    @property
    def gradient(self) -> torch.Tensor:
        """``(n,)``: the gradients without the scalars, a view."""
        return self.message[: self.size]

    @property
    def scalars(self) -> torch.Tensor:
        """``(slots,)``: the scalars that travel with the gradients, a view."""
        return self.message[self.size :]

    def attach(self) -> None:
        """Moves parameters into the buffer and makes them, and their gradients, views of it.

        Calling it again is cheap where nothing has moved; ``Module.to`` or an assignment to
        ``p.data`` or ``p.grad`` is noticed and undone.
        """
        offset = 0
        for parameter in self._parameters:
            place = slice(offset, offset + parameter.numel())
            value = self.values[place].view_as(parameter)
            if parameter.data_ptr() != value.data_ptr():
                value.copy_(parameter.data)
                parameter.data = value
            gradient = self.message[place].view_as(parameter)
            if parameter.grad is None or parameter.grad.data_ptr() != gradient.data_ptr():
                parameter.grad = gradient
            offset = place.stop
