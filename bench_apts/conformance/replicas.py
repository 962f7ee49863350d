"""Fingerprints of weights and buffers: are replicas equal, was a state restored?"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS = 52
"""A fingerprint is an integer below 2**52, which a float64 all-reduce carries exactly."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""2**64 over the golden ratio, an odd number, as a signed integer: for multiplicative hashes."""

_CHUNK = 1 << 20
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def fingerprint(tensors: Iterable[torch.Tensor]) -> int:
    """Return a hash of the tensors' bits, in order, as an integer in ``[0, 2**52)``.

    Equal bits give equal fingerprints on every rank. Sharded tensors count with this rank's part.
    A tensor on a device is reduced there; one synchronisation fetches all results.

    Args:
        tensors: Tensors of any dtype, shape and strides.
    """
    total = hashlib.sha256()  # most processors have instructions for it
    remote = []
    for tensor in tensors:
        part = local_part(tensor)
        if part.device.type == "cpu":
            if part.dtype == torch.bfloat16 or not part.is_contiguous():  # NumPy has no bfloat16
                part = part.contiguous().flatten().view(torch.uint8)
            total.update(part.numpy().data)
        else:
            remote.append(_reduced(part))
    if remote:
        total.update(repr(torch.stack(remote).tolist()).encode())
    return int.from_bytes(total.digest()[:8], "big") >> (64 - _BITS)


def _reduced(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``sum_i bits_i * w_i`` modulo 2**64 as a scalar int64; all w_i differ."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    bits = real.contiguous().flatten().view(_INTEGERS[real.element_size()])
    total = torch.full((), bits.numel(), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        weights = torch.arange(start + 1, start + 1 + chunk.numel(), device=bits.device)
        total += (chunk * (weights * _MULTIPLIER)).sum()
    return total


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor that is sharded, else the tensor itself, detached."""
    shard = _shard(tensor)
    return (tensor if shard is None else shard).detach()


def replicated(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors that every rank holds whole, and that must be equal on all of them."""
    return [tensor for tensor in tensors if _shard(tensor) is None]


def _shard(tensor: Any) -> torch.Tensor | None:
    """Return this rank's part of a tensor that FSDP2 (DTensor) or DeepSpeed ZeRO-3 shards."""
    if type(tensor) in _PLAIN and "ds_tensor" not in vars(tensor):
        return None
    if hasattr(tensor, "to_local"):
        part: torch.Tensor = tensor.to_local()
        return part
    return getattr(tensor, "ds_tensor", None)


def model_fingerprints(model: torch.nn.Module) -> tuple[int, int]:
    """Return the fingerprints of a model's replicated parameters and of its buffers."""
    return (fingerprint(replicated(model.parameters())), fingerprint(replicated(model.buffers())))


def align_buffers(model: torch.nn.Module) -> None:
    """Give all ranks the buffers of rank 0 by one broadcast per dtype; all ranks call it together.

    BatchNorm statistics differ between ranks, as each rank gathers them on its own share of the
    minibatches. DistributedDataParallel broadcasts them likewise before each forward pass.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    by_dtype: defaultdict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    for buffer in replicated(model.buffers()):
        by_dtype[buffer.dtype].append(buffer)
    for buffers in by_dtype.values():
        flat = torch.cat([buffer.detach().flatten() for buffer in buffers])
        dist.broadcast(flat, src=0)
        parts = torch.split(flat, [buffer.numel() for buffer in buffers])
        with torch.no_grad():
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))
