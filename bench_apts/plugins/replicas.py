"""Fingerprints of weights and buffers: are replicas equal, was a state restored?"""

from __future__ import annotations

import zlib
from collections import defaultdict
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64
"""2**64 over the golden ratio, an odd number, as a signed integer: for multiplicative hashes."""

_CHUNK = 1 << 20

_COPIED = 1 << 18
"""Most bytes that are copied to be compared, which is faster than any hash."""

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def fingerprint(tensors: Iterable[torch.Tensor]) -> int:
    """Return a hash of the tensors' bits, in order, as an integer in ``[0, 2**32)``.

    It is the bits' CRC-32, which a float64 all-reduce carries exactly: it shows every change
    within 32 bits in a row, and all but one of 4 billion others.
    Equal bits give equal fingerprints on every rank. Sharded tensors count with this rank's part.
    A tensor on a device is reduced there; one synchronisation fetches all results.

    Args:
        tensors: Tensors of any dtype, shape and strides.
    """
    total, remote = 0, []
    for tensor in tensors:
        part = local_part(tensor)
        if part.is_cpu:
            total = zlib.crc32(_memory(part.contiguous()), total)
        else:
            remote.append(_reduced(part))
    if remote:
        total = zlib.crc32(repr(torch.stack(remote).tolist()).encode(), total)
    return total


class Weights:
    """Tensors of which one often asks whether they changed.

    Views of their memory are kept, and used as long as each tensor begins where it began.

    Args:
        tensors: Tensors of any dtype, shape and strides.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self._whole = all(_shard(tensor) is None for tensor in self._tensors)
        self._places: list[tuple[int, bool]] | None = None
        self._views: list[memoryview] | None = None
        self._copied = False

    def are(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Say whether these are the very tensors."""
        return len(tensors) == len(self._tensors) and all(map(is_, tensors, self._tensors))

    def bits(self) -> int | bytes:
        """Return what is equal as long as the bits are: a copy of few, a fingerprint of many."""
        if not self._whole:
            return fingerprint(self._tensors)
        places = [(tensor.data_ptr(), tensor.is_contiguous()) for tensor in self._tensors]
        if places != self._places:
            self._places = places
            self._views = ([_memory(tensor.detach()) for tensor in self._tensors]
                           if all(tensor.is_cpu and tensor.is_contiguous()
                                  for tensor in self._tensors) else None)
            self._copied = sum(view.nbytes for view in self._views or ()) <= _COPIED
        if self._views is None:
            return fingerprint(self._tensors)
        if self._copied:
            return b"".join(self._views)
        total = 0
        for view in self._views:
            total = zlib.crc32(view, total)
        return total


def _memory(part: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    if part.dtype == torch.bfloat16:  # NumPy has none
        part = part.flatten().view(torch.uint8)
    memory: memoryview = part.numpy().data
    return memory


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
