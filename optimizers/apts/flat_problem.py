"""The training problem as the methods see it: flat buffers, a closure, counted passes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.utils.weak import TensorWeakRef

from bench_apts.optimizers.apts.views import Views, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SHORT = (torch.bfloat16, torch.float16)
"""Too coarse for small steps to add up: such parameters are copies of float32 values."""


class FlatBuffers:
    """Parameters in a flat buffer, of which they become views, and a message of that size.

    Parameters of 16 bits are views of a buffer of their own, rounded from ``values`` before each
    evaluation (``publish``); their gradients are converted after it (``collect``).

    Args:
        parameters: Real floating-point tensors, all of one dtype on one device.
        buffers: BatchNorm statistics and the like, or a function that returns them; those that
            are not floats are only saved and restored, never averaged.
        slots: Scalars that travel with the message in the same collective.
        names: What messages call the parameters; their numbers if empty.
        collects: Whether evaluations leave the gradient in the message. Else gradients stay in
            autograd's tensors, and the message has the memory of the values. Parameters of 16
            bits need a message of their own.

    Attributes:
        size: n, the number of elements of all parameters.
        values: ``(n,)``, the parameters; float32 where those have 16 bits, else of their dtype.
        message: ``(n + slots + b,)``, like ``values``: the payload, scalars, and room for b buffer
            elements. What is all-reduced is a leading part of it.
        payload: ``(n,)``, a view of the message: its gradients, if it collects them, until a
            displacement replaces them.
        scalars: ``(slots,)``: the scalars that travel with the payload, a view of it.
        with_scalars: ``(n + slots,)``: payload and scalars, a view of it.
        averages: Whether there are buffers that are averaged.
        rounded: Whether the parameters are rounded copies of ``values``.
        collects: Whether evaluations leave the gradient in the payload.

    Raises:
        ValueError: A parameter cannot be trained, or dtypes or devices differ.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        buffers: Iterable[torch.Tensor] | Callable[[], Iterable[torch.Tensor]],
        slots: int,
        names: Sequence[str] = (),
        collects: bool = True,
    ) -> None:
        names = names or [f"parameter {i}" for i in range(len(parameters))]
        check(parameters, names)
        first = parameters[0]
        self._find = buffers if callable(buffers) else _held(buffers)
        self.size = sum(p.numel() for p in parameters)
        room = sum(b.numel() for b in self._averaged())
        self.averages = room > 0
        self.rounded = first.dtype in _SHORT
        self.collects = collects or self.rounded
        dtype = torch.float32 if self.rounded else first.dtype
        self.message = torch.zeros(self.size + slots + room, dtype=dtype, device=first.device)
        self.with_scalars = self.message[: self.size + slots]
        self.payload: torch.Tensor = self.with_scalars[: self.size]
        self.scalars: torch.Tensor = self.with_scalars[self.size :]
        self.values = torch.empty_like(self.payload) if self.collects else self.payload
        self._shown = (torch.empty_like(self.values, dtype=first.dtype) if self.rounded
                       else self.values)
        self._views = Views(
            parameters, names, self._shown, self.payload if self.collects else None)
        self.values.copy_(self._shown)

    @property
    def gradients(self) -> list[torch.Tensor]:
        """The latest evaluation's gradients as vectors: one if collected, else per parameter."""
        return [self.payload] if self.collects else self._views.gradients

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter that has any."""
        return self._views.sizes

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return the parts ``(size,)`` of a vector ``(n,)`` that belong to ``gradients``."""
        return [vector] if self.collects else list(torch.split(vector, self.sizes))

    @property
    def strides(self) -> list[list[int]]:
        """The strides of each parameter that has elements: the order of the values."""
        return self._views.strides

    def attach(self) -> None:
        """Bring parameters that others moved, changed or replaced into the buffer (again).

        Raises:
            ValueError: A parameter was converted or frozen; says what to do.
        """
        self._views.attach()
        if self.rounded:
            written = self._shown != self.values.to(self._shown.dtype)
            torch.where(written, self._shown, self.values, out=self.values)

    def publish(self) -> None:
        """Write the values to the parameters, where those are rounded copies."""
        if self.rounded:
            self._shown.copy_(self.values)

    def collect(self, backward: bool) -> bool:
        """End an evaluation: find its gradients and, if asked for, copy them to the message.

        Returns:
            Whether a backward pass has reached any parameter.

        Raises:
            ValueError: A parameter was converted by the closure.
        """
        return self._views.settle(backward)

    def clear(self) -> None:
        """Set the gradients to None."""
        self._views.clear()

    def release(self) -> None:
        """Keep no gradients alive but those that ``p.grad`` holds."""
        self._views.gradients = []

    def gather(self) -> None:
        """Copy the gradients to the payload, where evaluations do not."""
        if not self.collects:
            torch._foreach_copy_(self.split(self.payload), self.gradients)

    def scatter(self) -> None:
        """Copy the payload to the gradients."""
        if not self.collects:
            torch._foreach_copy_(self.gradients, self.split(self.payload))

    def _averaged(self) -> list[torch.Tensor]:
        return [b for b in self._find() if b.is_floating_point()]

    def pack_buffers(self) -> None:
        """Copy the averaged buffers to the end of the message.

        Raises:
            RuntimeError: There are others than at first.
        """
        for buffer, place in self._packed():
            place.copy_(buffer)

    def unpack_buffers(self) -> None:
        """Copy the end of the message back into the averaged buffers."""
        for buffer, place in self._packed():
            buffer.copy_(place)

    def _packed(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Return the averaged buffers, each with its place in the message."""
        room = self.message[len(self.with_scalars) :]
        if not len(room):
            return iter(())
        buffers = self._averaged()
        sizes = [buffer.numel() for buffer in buffers]
        if sum(sizes) != len(room):
            raise RuntimeError("the model's buffers have another size than when this APTS was "
                               "made; make a new APTS")
        places = (part.view(buffer.shape) for buffer, part
                  in zip(buffers, torch.split(room, sizes), strict=True))
        return zip(buffers, places, strict=True)

    def save_buffers(self) -> list[torch.Tensor]:
        """Return copies of all buffers.

        Raises:
            RuntimeError: The model no longer holds those that it was given.
        """
        return [buffer.clone() for buffer in self._find()]

    def restore_buffers(self, saved: list[torch.Tensor]) -> None:
        """Restore what ``save_buffers`` returned."""
        for buffer, copy in zip(self._find(), saved, strict=True):
            buffer.copy_(copy)


def _held(buffers: Iterable[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Return a function that returns the buffers as long as the model holds them."""
    # Conversions put new tensors in the place of a model's buffers, and strong references would
    # keep the old ones alive.
    held = [TensorWeakRef(buffer) for buffer in buffers]

    def find() -> list[torch.Tensor]:
        found = [buffer for ref in held if (buffer := ref()) is not None]
        if len(found) < len(held):
            raise RuntimeError(
                "the model has replaced buffers that APTS was given (a conversion does): make the "
                "APTS with buffers=model.buffers, without calling it, which finds the new ones")
        return found

    return find


Closure = Callable[..., torch.Tensor]
"""``closure(backward: bool)``: see ``APTS``."""


class FlatProblem:
    """This rank's loss wherever the parameters are, with counts of the passes.

    Attributes:
        flat: Parameters, message and buffers.
        forwards: Forward passes so far.
        backwards: Backward passes so far.
    """

    def __init__(self, flat: FlatBuffers) -> None:
        self.flat = flat
        self.forwards = self.backwards = 0
        self._closure: Closure | None = None
        self._fault: ValueError | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes so far."""
        return self.forwards + self.backwards

    def pose(self, closure: Closure) -> None:
        """Set the closure of the next evaluations, and read parameters that others changed.

        Raises:
            TypeError: It cannot be called.
        """
        if not callable(closure):
            raise TypeError(_SIGNATURE)
        self._closure = closure
        try:
            self.flat.attach()
        except ValueError as error:  # of this rank, perhaps: raised where all ranks learn of it
            self._fault = error

    def withdraw(self) -> None:
        """Forget the closure, which may hold a minibatch, and publish where the step ended."""
        self._closure = self._fault = None
        self.flat.release()
        self.flat.publish()

    def evaluate(self, backward: bool) -> torch.Tensor:
        """Return this rank's losses at the values, detached, in their dtype: ``(b,)`` or ``()``.

        Args:
            backward: Whether the gradient is wanted too.

        Raises:
            ValueError: The model was converted, or the losses have another shape.
            TypeError: The closure does not return a tensor, or takes no ``backward``.
            RuntimeError: The gradients of the closure's backward pass went elsewhere.
        """
        if self._closure is None:
            raise RuntimeError("no closure yet: call step() first")
        if self._fault is not None:
            raise self._fault
        self.forwards += 1
        self.backwards += backward
        flat = self.flat
        flat.publish()
        if backward:
            flat.clear()
        try:
            with torch.set_grad_enabled(backward):
                losses = _losses(self._closure, backward)
        finally:
            reached = flat.collect(backward)
        if backward and not reached and losses.numel():
            raise RuntimeError(_UNREACHED)
        return losses.detach().to(flat.values)


_SIGNATURE = ("step() takes a closure(backward=True) that leaves out the backward pass when it is "
              "called with backward=False")

_UNREACHED = (
    "the closure's backward pass has reached none of the parameters of this APTS: with "
    "backward=True it must call backward() on the loss of the model that they belong to; where "
    "the model holds other parameters now (load_state_dict(assign=True), weight_norm, a copy), "
    "make a new APTS")


def _losses(closure: Closure, backward: bool) -> torch.Tensor:
    """Call the closure and check what it returns."""
    try:
        losses: object = closure(backward=backward)
    except TypeError as error:
        try:
            inspect.signature(closure).bind(backward=backward)
        except TypeError:
            raise TypeError(_SIGNATURE) from error
        raise
    if not isinstance(losses, torch.Tensor):
        raise TypeError(f"the closure returned {type(losses).__name__}, not a tensor: this rank's "
                        "losses, one per sample, or their mean")
    if losses.dim() > 1:
        raise ValueError(f"the closure returned losses of the shape {tuple(losses.shape)}: one "
                         "per sample, (b,), or their mean was expected")
    return losses
