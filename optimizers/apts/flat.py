"""One contiguous buffer for all parameters and one for all that travels with the gradients."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORT = (torch.bfloat16, torch.float16)
"""Too coarse for small steps to add up: such parameters are copies of float32 values."""


class Flat:
    """Keeps parameters and their gradients in flat buffers; the tensors become views.

    Parameters of 16 bits are views of a buffer of their own, rounded from ``values`` before each
    evaluation (``publish``); their gradients are converted after it (``collect``).

    Args:
        parameters: All of one dtype on one device.
        buffers: BatchNorm statistics and the like; those that are not floats are only saved and
            restored, never averaged.
        slots: Scalars that travel with the gradients in the same collective.

    Attributes:
        values: ``(n,)``, the parameters; float32 where those have 16 bits, else of their dtype.
        message: ``(n + slots + b,)``, like ``values``: gradients, scalars, and room for b buffer
            elements. What is all-reduced is a leading part of it.
        rounded: Whether the parameters are rounded copies of ``values``.

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
        self._buffers = list(buffers)
        self._averaged = [b for b in buffers if b.is_floating_point()]
        self.size = sum(p.numel() for p in parameters)
        self._slots = slots
        room = sum(b.numel() for b in self._averaged)
        self.rounded = first.dtype in _SHORT
        dtype = torch.float32 if self.rounded else first.dtype
        self.values = torch.empty(self.size, dtype=dtype, device=first.device)
        self.message = torch.zeros(self.size + slots + room, dtype=dtype, device=first.device)
        self._shown, self._slopes = self.values, self.message
        if self.rounded:
            self._shown = torch.empty_like(self.values, dtype=first.dtype)
            self._slopes = torch.zeros_like(self._shown)
        ends = accumulate((p.numel() for p in parameters), initial=0)
        self._views = [
            (p, self._shown[begin:end].view_as(p), self._slopes[begin:end].view_as(p))
            for p, (begin, end) in zip(parameters, pairwise(ends), strict=True)]
        self.attach()
        self.values.copy_(self._shown)

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

    @property
    def averages(self) -> bool:
        """Whether there are buffers that are averaged."""
        return bool(self._averaged)

    def attach(self) -> None:
        """Moves parameters into the buffer and makes them, and their gradients, views of it.

        Calling it again is cheap where nothing has moved; ``Module.to`` or an assignment to
        ``p.data`` or ``p.grad`` is noticed and undone.
        """
        for parameter, value, gradient in self._views:
            if parameter.data_ptr() != value.data_ptr():
                value.copy_(parameter.data)
                parameter.data = value
            if parameter.grad is not gradient:
                parameter.grad = gradient

    def adopt(self) -> None:
        """Takes over what others wrote into parameters that are rounded copies."""
        if self.rounded:
            written = self._shown != self.values.to(self._shown.dtype)
            torch.where(written, self._shown, self.values, out=self.values)

    def publish(self) -> None:
        """Shows the values in the parameters, where those are rounded copies."""
        if self.rounded:
            self._shown.copy_(self.values)

    def collect(self) -> None:
        """Brings the gradients into the message, where the parameters are rounded copies."""
        if self.rounded:
            self.gradient.copy_(self._slopes)

    def clear(self) -> None:
        """Zeroes the message and the gradients."""
        self.message.zero_()
        if self.rounded:
            self._slopes.zero_()

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
