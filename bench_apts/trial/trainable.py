"""Whether every optimizer can train a network's parameters: what cannot be is refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

_DTYPES = (torch.float32, torch.float64)


def check_parameters(network: torch.nn.Module) -> None:
    """Check parameters as built, before any pass.

    Raises:
        UserError: There are none to be trained, or one is lazy, has no values, is no float of 32
            or 64 bits, has another dtype than the others, or shares memory.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if not trained:
        raise UserError("the network has no parameter that requires a gradient: nothing can be "
                        "trained")
    first_name, first = trained[0]
    owners: dict[int, str] = {}
    for name, p in network.named_parameters():
        if is_lazy(p):
            raise UserError(f"parameter {name} has no shape yet, as its layer is lazy: run one "
                            "forward pass before the network is returned")
        if p.is_meta:
            raise UserError(f"parameter {name} is on the device 'meta' and has no values")
        if not p.requires_grad:
            continue
        if p.is_complex():
            raise UserError(f"parameter {name} is complex, which not every optimizer can train: "
                            "hold torch.view_as_real of it as the parameter")
        if p.dtype not in _DTYPES:
            raise UserError(f"parameter {name} is {_short(p)}: return a network of float32, and "
                            "write precision = \"bf16\" for passes in bfloat16")
        if p.dtype != first.dtype:
            raise UserError(f"parameters have several dtypes, {_short(first)} ({first_name}) and "
                            f"{_short(p)} ({name}), which not every optimizer can train: give "
                            "all of them one")
        if any(step == 0 and size > 1 for step, size in zip(p.stride(), p.shape, strict=True)):
            raise UserError(f"elements of parameter {name} share memory (expand): clone() it")
        if p.numel() and (other := owners.setdefault(p.data_ptr(), name)) != name:
            raise UserError(f"parameters {other} and {name} share memory without being one "
                            "parameter: let the network hold one nn.Parameter in both places")


def check_gradients(network: torch.nn.Module) -> None:
    """Check gradients after a backward pass over a whole batch.

    Raises:
        UserError: A parameter that requires a gradient has none, or a sparse one.
    """
    unused = without_gradient(network)
    if unused:
        raise UserError(f"parameters without a gradient: {_some(unused)}; use them in the "
                        "loss, or freeze them by requires_grad_(False)")
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.layout != torch.strided:
            raise UserError(f"parameter {name} gets a sparse gradient, which not every optimizer "
                            "can use: leave out sparse=True")


def without_gradient(network: torch.nn.Module) -> list[str]:
    """Return the names of parameters that require a gradient and have none."""
    return [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def refuse_occasional(names: Iterable[str]) -> None:
    """Refuse parameters that some batches give a gradient and others do not.

    Raises:
        UserError: There is one.
    """
    if names := list(dict.fromkeys(names)):
        raise UserError(
            f"parameters that some batches give no gradient: {_some(names)}; ranks that average "
            "gradients would wait for them: let every batch reach them, for instance by adding "
            "0 * p.sum() of each to the loss, or freeze them by requires_grad_(False)")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _short(parameter: torch.nn.Parameter) -> str:
    return str(parameter.dtype).removeprefix("torch.")
