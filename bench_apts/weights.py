"""Weights: their fingerprint, and the precision that they are used in."""

from __future__ import annotations

import hashlib

import torch


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


def in_precision(
    model: torch.nn.Module, device: torch.device, precision: str
) -> torch.nn.Module:
    """Makes forward passes run in bf16 where the suite says so; outputs are float32 anyway."""
    if precision == "fp32":
        return model
    forward = model.forward

    def mixed(inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            output: torch.Tensor = forward(inputs)
        return output.float()

    model.forward = mixed
    return model
