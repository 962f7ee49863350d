"""Parameters and their gradients as views of flat vectors, whatever moves them elsewhere."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from collections.abc import Sequence

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(slots=True)
class _ParameterSlot:
    """One parameter and its place in the vectors.

    ``value`` and ``gradient`` are views that only this module holds: what is handed out shares
    their memory, but ``p.data = …``, ``p.grad.data = …`` and the like cannot point them elsewhere.

    Attributes:
        gradient: None where gradients stay in tensors of their own.
        address: Of ``value``.
    """

    parameter: torch.nn.Parameter
    name: str
    value: torch.Tensor
    gradient: torch.Tensor | None
    size: int
    strides: tuple[int, ...]
    address: int = 0

    def attach_value(self) -> None:
        """Make the parameter a view of the vector (again)."""
        self.parameter.data = self.value
        self.address = self.value.data_ptr()  # another one after share_memory_()

    def own_gradient(self) -> torch.Tensor:
        """Make ``p.grad`` a dense tensor in the parameter's order, and return it."""
        found = self.parameter.grad
        if found is None:
            found = self.parameter.grad = torch.zeros_like(self.value)
        elif not self._suits(found):
            found = self.parameter.grad = torch.empty_like(self.value).copy_(found.to_dense())
        return found

    def _suits(self, found: torch.Tensor) -> bool:
        """Return whether a gradient lies in memory as the parameter does, without a graph."""
        if found.layout != torch.strided or found.requires_grad:
            return False
        strides = found.stride()
        return strides == self.strides or all(
            one == other or length == 1
            for one, other, length in zip(strides, self.strides, found.shape, strict=True))


class Views:
    """Parameters, and on request their gradients, as views of vectors.

    Autograd writes gradients to tensors of its own, which costs less than to zero a vector and to
    add to it; ``settle`` finds or copies them. Each parameter keeps its own order of dimensions in
    memory: channels_last stays channels_last.

    Args:
        parameters: All real floating-point tensors of one dtype on one device.
        names: What messages call them.
        values: ``(n,)``, of their dtype; receives the parameters.
        slopes: ``(n,)``, receives the gradients, in its dtype; None if they stay where they are.

    Attributes:
        gradients: Without ``slopes``, each parameter's gradient after ``settle``, ``(size,)`` in
            the order of its memory.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        names: Sequence[str],
        values: torch.Tensor,
        slopes: torch.Tensor | None,
    ) -> None:
        self._places: list[_ParameterSlot] = []
        self.gradients: list[torch.Tensor] = []
        self._warned = False
        ends = accumulate((p.numel() for p in parameters), initial=0)
        for p, name, (begin, end) in zip(parameters, names, pairwise(ends), strict=True):
            if begin == end:
                continue
            # Dense strides in the order of the parameter's own.
            strides = torch.empty_like(p, device="meta").stride()
            value = values.as_strided(p.shape, strides, begin)
            gradient = None if slopes is None else slopes.as_strided(p.shape, strides, begin)
            self._places.append(_ParameterSlot(p, name, value, gradient, end - begin, strides))
        self.attach()

    @property
    def strides(self) -> list[list[int]]:
        """The strides of each parameter that has elements."""
        return [list(place.strides) for place in self._places]

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter that has any."""
        return [place.size for place in self._places]

    # The next three run once per step or evaluation, and must cost next to nothing.

    def attach(self) -> None:
        """Bring back parameters that others have moved, with their values.

        Raises:
            ValueError: A parameter has become another one: of another dtype, device or shape, or
                with memory that it shares.
        """
        moved = []
        for place in self._places:
            parameter = place.parameter
            if (parameter.data_ptr() != place.address or parameter.stride() != place.strides
                    or parameter.numel() != place.size):
                moved.append(place)
        if moved:
            self._check()
            # All are read before any is written: layers may have exchanged their tensors.
            contents = [place.parameter.data.clone() for place in moved]
            for place, content in zip(moved, contents, strict=True):
                place.value.copy_(content)
                place.attach_value()

    def clear(self) -> None:
        """Set all gradients to None, so that autograd writes new ones instead of adding."""
        self.gradients = []
        for place in self._places:
            place.parameter.grad = None

    def settle(self, backward: bool) -> bool:
        """Undo what a closure did besides evaluating, and find the gradients that it left.

        Args:
            backward: Whether it was asked for gradients.

        Returns:
            Whether any gradient has arrived.

        Raises:
            ValueError: As ``attach``, or a parameter is frozen.
        """
        missed = []
        for place in self._places:
            if place.parameter.data_ptr() != place.address:
                self._check()
                place.attach_value()
            if backward and place.parameter.grad is None:
                missed.append(place)
        if not backward:
            return False
        if missed:
            self._complain(missed)
        found = [place.own_gradient() for place in self._places]
        vectors = [place.gradient for place in self._places if place.gradient is not None]
        if vectors:
            torch._foreach_copy_(vectors, found)
            for place, vector in zip(self._places, vectors, strict=True):
                if vector.dtype == place.value.dtype:  # and free the copy
                    place.parameter.grad = vector.data
        else:
            self.gradients = [gradient.as_strided((place.size,), (1,)) for gradient, place
                              in zip(found, self._places, strict=True)]
        return len(missed) < len(self._places)

    def _complain(self, missed: list[_ParameterSlot]) -> None:
        """Raise or warn where no gradient has reached some parameters."""
        for place in missed:
            if not place.parameter.requires_grad:
                raise ValueError(f"{place.name} was frozen (requires_grad=False) after this APTS "
                                 "was made; make a new APTS of the parameters to be trained")
        if len(missed) < len(self._places) and not self._warned:
            self._warned = True
            warnings.warn(
                f"no gradient has reached {', '.join(place.name for place in missed)}: where the "
                "model holds other parameters in their place now (weight_norm, "
                "load_state_dict(assign=True)), make a new APTS", stacklevel=2)

    def _check(self) -> None:
        """Raise if the vector has no room for a parameter as it is now."""
        for place in self._places:
            p, value = place.parameter, place.value
            if (p.dtype, p.device, p.shape) != (value.dtype, value.device, value.shape):
                raise ValueError(
                    f"{place.name} is {tuple(p.shape)} {p.dtype} on {p.device} now, but was "
                    f"{tuple(value.shape)} {value.dtype} on {value.device} when this APTS was "
                    "made; convert the model back, or make a new APTS after converting it")
        check([place.parameter for place in self._places], [place.name for place in self._places])


def check(parameters: Sequence[torch.nn.Parameter], names: Sequence[str]) -> None:
    """Raise ``ValueError`` for parameters that APTS cannot train, and say what to do."""
    first, owners = parameters[0], dict[int, str]()
    for p, name in zip(parameters, names, strict=True):
        if is_lazy(p):
            raise ValueError(f"{name} has no shape yet: run one forward pass, then make the APTS")
        if p.is_complex():
            raise ValueError(f"{name} is complex ({p.dtype}), and APTS trains real parameters: "
                             "hold torch.view_as_real of it as the parameter")
        if type(p.data) is not torch.Tensor or p.layout != torch.strided or p.is_meta:
            kind = "on the meta device" if p.is_meta else f"a {type(p.data).__name__} ({p.layout})"
            raise ValueError(f"{name} is {kind}, and APTS trains dense tensors that have values")
        if p.dtype not in _DTYPES:
            raise ValueError(f"{name} is {p.dtype}, and APTS trains floats of 16, 32 or 64 bits")
        if p.dtype != first.dtype or p.device != first.device:
            raise ValueError(f"all parameters must have the same dtype and device, but {name} is "
                             f"{p.dtype} on {p.device} and {names[0]} {first.dtype} on "
                             f"{first.device}")
        if any(step == 0 and size > 1 for step, size in zip(p.stride(), p.shape, strict=True)):
            raise ValueError(f"elements of {name} share memory (expand): clone() it first")
        if p.numel() and (other := owners.setdefault(p.data_ptr(), name)) != name:
            raise ValueError(f"{other} and {name} share memory: let the model hold one parameter "
                             "in both places, or clone() one of them")
