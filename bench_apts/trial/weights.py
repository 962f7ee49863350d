"""Weights: their fingerprint, and the precision that they are used in."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from collections.abc import Callable

    Forward = Callable[..., Any]


def sha256(model: torch.nn.Module) -> str | None:
    """Hashes the parameters' names, shapes and bytes in their order; buffers do not count.

    Returns:
        Hexadecimal digits, or None where this rank does not hold the parameters (ZeRO-3).
    """
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0:
            return None
        total.update(f"{name.removeprefix('module.')}{tuple(parameter.shape)}".encode())
        total.update(parameter.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()


def in_precision(forward: Forward, device: torch.device, precision: str) -> Forward:
    """Return a forward pass that runs in bf16 where the suite says so; outputs are float32.

    Args:
        forward: ``forward(model, *inputs)``.
        device: Where the model lies.
        precision: ``"fp32"`` or ``"bf16"``.
    """
    if precision == "fp32":
        return forward

    def mixed(model: torch.nn.Module, *inputs: Any, **named: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            output = forward(model, *inputs, **named)
        return tree_map_only(torch.Tensor, _float, output)

    return mixed


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
