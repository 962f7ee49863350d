"""One contiguous buffer for all parameters and one for all that travels with the gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class Flat:
    """Keeps parameters and their gradients in two flat buffers; the tensors become views.

    Args:
        parameters: All of one dtype on one device.
        buffers: BatchNorm statistics and the like; those that are not floats are only saved and
            restored, never averaged.
        slots: Scalars that travel with the gradients in the same collective.

    Attributes:
        values: ``(n,)``, the parameters.
        message: ``(n + slots + b,)``: gradients, scalars, and room for b buffer elements. What
            is all-reduced is a leading part of it.

    Raises:
        ValueError: Dtypes or devices differ.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        buffers: Sequence[torch.Tensor],
        slots: int,
    ) -> None:
        first = parameters[0]
        if any(p.dtype != first.dtype or p.device != first.device for p in parameters):
            raise ValueError("all parameters must have the same dtype and device")
        self._parameters = list(parameters)
        self._buffers = list(buffers)
        self._averaged = [b for b in buffers if b.is_floating_point()]
        self.size = sum(p.numel() for p in parameters)
        self._slots = slots
        room = sum(b.numel() for b in self._averaged)
        self.values = torch.empty(self.size, dtype=first.dtype, device=first.device)
        self.message = torch.zeros(
            self.size + slots + room, dtype=first.dtype, device=first.device)
        self.attach()

    @property
    def gradient(self) -> torch.Tensor:
        """``(n,)``: the gradients, a view."""
        return self.message[: self.size]

    @property
    def scalars(self) -> torch.Tensor:
        """``(slots,)``: the scalars that travel with the gradients, a view."""
        return self.message[self.size : self.size + self._slots]

    @property
    def with_scalars(self) -> torch.Tensor:
        """``(n + slots,)``: gradients and scalars, a view."""
        return self.message[: self.size + self._slots]

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

    def pack_buffers(self) -> None:
        """Copies the averaged buffers to the end of the message."""
        offset = self.size + self._slots
        for buffer in self._averaged:
            self.message[offset : offset + buffer.numel()] = buffer.flatten()
            offset += buffer.numel()

    def unpack_buffers(self) -> None:
        """Copies the end of the message back into the averaged buffers."""
        offset = self.size + self._slots
        for buffer in self._averaged:
            buffer.copy_(self.message[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()

    def save_buffers(self) -> list[torch.Tensor]:
        """Returns copies of all buffers."""
        return [buffer.clone() for buffer in self._buffers]

    def restore_buffers(self, saved: list[torch.Tensor]) -> None:
        """Takes back what ``save_buffers`` returned."""
        for buffer, copy in zip(self._buffers, saved, strict=True):
            buffer.copy_(copy)
