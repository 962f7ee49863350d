"""Parameters and their gradients as views of two flat vectors, whatever moves them elsewhere."""

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
        address: Of ``value``.
        slope_address: Of ``gradient``.
        given: The latest tensor that became ``p.grad``; its ``_version`` counts the writes to it.
        writes: That count when it was last read.
    """

    parameter: torch.nn.Parameter
    name: str
    value: torch.Tensor
    gradient: torch.Tensor
    size: int
    strides: tuple[int, ...]
    address: int = 0
    slope_address: int = 0
    given: torch.Tensor | None = None
    writes: int = 0

    def attach_value(self) -> None:
        """Make the parameter a view of the vector (again)."""
        self.parameter.data = self.value
        self.address = self.value.data_ptr()  # another one after share_memory_()

    def attach_gradient(self) -> None:
        """Make ``p.grad`` a view of the vector (again)."""
        self.parameter.grad = self.given = self.gradient.data
        self.slope_address = self.given.data_ptr()
        self.writes = self.given._version


class Views:
    """Parameters and their gradients as views of two vectors.

    Each parameter keeps its own order of dimensions in memory: channels_last stays channels_last.

    Args:
        parameters: All real floating-point tensors of one dtype on one device.
        names: What messages call them.
        values: ``(n,)``, of their dtype; receives the parameters.
        slopes: ``(n,)``, of their dtype; receives the gradients.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        names: Sequence[str],
        values: torch.Tensor,
        slopes: torch.Tensor,
    ) -> None:
        self._places = []
        self._warned = False
        ends = accumulate((p.numel() for p in parameters), initial=0)
        for p, name, (begin, end) in zip(parameters, names, pairwise(ends), strict=True):
            if begin == end:
                continue
            # Dense strides in the order of the parameter's own.
            strides = torch.empty_like(p, device="meta").stride()
            value, gradient = (vector.as_strided(p.shape, strides, begin)
                               for vector in (values, slopes))
            self._places.append(_ParameterSlot(p, name, value, gradient, end - begin, strides))
        self.attach()

    @property
    def strides(self) -> list[list[int]]:
        """The strides of each parameter that has elements."""
        return [list(place.strides) for place in self._places]

    # The next two run once per step and once per evaluation, and must cost next to nothing.

    def attach(self) -> None:
        """Bring back parameters and gradients that others have moved, with their values.

        Raises:
            ValueError: A parameter has become another one: of another dtype, device or shape, or
                with memory that it shares.
        """
        moved = []
        for place in self._places:
            parameter, given = place.parameter, place.given
            if (parameter.data_ptr() != place.address or parameter.stride() != place.strides
                    or parameter.numel() != place.size):
                moved.append(place)
            elif (given is not None and parameter.grad is given
                    and given.data_ptr() == place.slope_address):
                place.writes = given._version
            else:
                place.attach_gradient()
        if moved:
            self._check()
            # All are read before any is written: layers may have exchanged their tensors.
            contents = [place.parameter.data.clone() for place in moved]
            for place, content in zip(moved, contents, strict=True):
                place.value.copy_(content)
                place.attach_value()
                place.attach_gradient()

    def settle(self, backward: bool) -> bool:
        """Undo what a closure did besides evaluating; the vector keeps its values.

        A gradient that a closure left in a tensor of its own (``zero_grad(set_to_none=True)``,
        ``create_graph=True``, an assignment) is copied into the vector.

        Args:
            backward: Whether it was asked for gradients.

        Returns:
            Whether any gradient has arrived.

        Raises:
            ValueError: As ``attach``, or a parameter is frozen.
        """
        missed = []
        for place in self._places:
            parameter, given = place.parameter, place.given
            if parameter.data_ptr() != place.address:
                self._check()
                place.attach_value()
            if not backward:
                continue
            gradient = parameter.grad
            if (given is not None and gradient is given
                    and given.data_ptr() == place.slope_address):
                writes = given._version
                if place.writes == writes:
                    missed.append(place)
                place.writes = writes
                continue
            if gradient is None:
                missed.append(place)
                place.gradient.zero_()
            else:
                place.gradient.copy_(gradient.to_dense())
            place.attach_gradient()
        if missed:
            self._complain(missed)
        return backward and len(missed) < len(self._places)

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
