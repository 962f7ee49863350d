"""What a step of data-parallel training sends, worked out from the sizes of a network's tensors.

The messages are those that torch and DeepSpeed issue, call by call: tests compare them with what
the meter counts in real trainings. Distributed data parallel: Li et al., "PyTorch Distributed",
VLDB 2020 (buckets); ZeRO: Rajbhandari et al., arXiv 1910.02054; FSDP: Zhao et al., VLDB 2023.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.wire import ideal_bytes
from bench_apts.optimizers import trust_region
from bench_apts.stats.network_model import Algorithm, collective_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.network_model import Interconnect

_FIRST_BUCKET, _BUCKET = 1 << 20, 25 << 20
"""Bytes of DDP's first bucket, and at least of each other one but the last."""

_ZERO_BUCKET = 500_000_000
"""Elements of DeepSpeed's ``reduce_bucket_size`` and ``allgather_bucket_size``."""

_PERSISTENT = 100_000
"""Elements below which ZeRO-3 gathers a parameter after the step, not where it is used."""


class TensorSize(NamedTuple):
    """A parameter or buffer: its shape, the bytes of an element, and its type by name."""

    shape: tuple[int, ...]
    itemsize: int = 4
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.elements * self.itemsize


class NetworkSizes(NamedTuple):
    """The trained parameters of a network and its buffers, in its own order."""

    parameters: Sequence[TensorSize]
    buffers: Sequence[TensorSize] = ()


class Message(NamedTuple):
    """One collective of a step: its name and payload in bytes."""

    collective: str
    payload_bytes: int


class StrategyTraffic(NamedTuple):
    """What one step sends.

    Attributes:
        messages: Its collectives.
        steps: Steps that share them: 1, or the local steps of a round.
        note: What the messages leave out or assume; "" if nothing.
    """

    messages: tuple[Message, ...]
    steps: int = 1
    note: str = ""

    def ideal(self, ranks: int) -> float:
        """Return the ideal bytes that a rank sends in a step."""
        return math.fsum(ideal_bytes(*message, ranks) for message in self.messages) / self.steps

    def seconds(self, ranks: int, network: Interconnect,
                algorithm: Algorithm = Algorithm.best) -> float:
        """Return the modelled seconds of a step's communication; nothing overlaps."""
        return math.fsum(collective_seconds(*message, ranks, network, algorithm)
                         for message in self.messages) / self.steps


def ddp(sizes: NetworkSizes, ranks: int) -> StrategyTraffic:
    """Return the traffic of ``DistributedDataParallel``: gradients in buckets, buffers of rank 0.

    Buckets are those after the first step, filled from the last parameter to the first, each
    type apart.
    """
    return StrategyTraffic((*_buffers(sizes), *_buckets(sizes.parameters)))


def _buckets(parameters: Sequence[TensorSize]) -> list[Message]:
    limits: dict[str, int] = {}
    filled: dict[str, int] = {}
    found = []
    for tensor in reversed(parameters):
        filled[tensor.dtype] = filled.get(tensor.dtype, 0) + tensor.bytes
        if filled[tensor.dtype] >= limits.get(tensor.dtype, _FIRST_BUCKET):
            found.append(filled.pop(tensor.dtype))
            limits[tensor.dtype] = _BUCKET
    return [Message("all_reduce", size) for size in (*found, *filled.values())]


def _buffers(sizes: NetworkSizes) -> list[Message]:
    """Return the broadcast of all buffers, one for each type, as DDP does before each pass."""
    by_type: dict[str, int] = {}
    for tensor in sizes.buffers:
        by_type[tensor.dtype] = by_type.get(tensor.dtype, 0) + tensor.bytes
    return [Message("broadcast", size) for size in by_type.values()]


def fsdp2(sizes: NetworkSizes, ranks: int) -> StrategyTraffic:
    """Return the traffic of FSDP2 with the whole network as one unit.

    It is gathered before the forward pass and kept for the backward pass; each parameter's rows
    are padded to a multiple of N.
    """
    padded = sum(-(-tensor.shape[0] // ranks) * ranks * math.prod(tensor.shape[1:])
                 * tensor.itemsize if tensor.shape else ranks * tensor.itemsize
                 for tensor in sizes.parameters)
    return StrategyTraffic(
        (Message("all_gather", padded), Message("reduce_scatter", padded)),
        note="the network is one unit; units that are gathered again for the backward pass send "
             "their parameters once more")


def zero_1_2(sizes: NetworkSizes, ranks: int) -> StrategyTraffic:
    """Return the traffic of DeepSpeed's ZeRO stages 1 and 2.

    The gradient and a flag are summed, and parameters gathered, padded to a multiple of 2 N.
    """
    elements = sum(tensor.elements for tensor in sizes.parameters)
    padded = 2 * ranks * math.ceil(elements / (2 * ranks))
    return StrategyTraffic((
        *_in_buckets("all_reduce", elements), Message("all_reduce", 4),
        *_in_buckets("all_gather", padded)), note="gradients and parameters of 4 bytes")


def _in_buckets(collective: str, elements: int) -> list[Message]:
    full, rest = divmod(elements, _ZERO_BUCKET)
    return [Message(collective, 4 * size) for size in (*[_ZERO_BUCKET] * full, rest) if size]


def zero_3(sizes: NetworkSizes, ranks: int) -> StrategyTraffic:
    """Return the traffic of DeepSpeed's ZeRO-3, whose tensors are padded to multiples of N."""
    each = [-(-tensor.elements // ranks) * ranks for tensor in sizes.parameters]
    gathered = [Message("all_gather", 4 * size) for size in each]
    return StrategyTraffic(
        (*gathered, *_in_buckets("reduce_scatter", sum(each)), Message("all_reduce", 8)),
        note="parameters of 4 bytes that stay gathered from use to use; of more than 10⁹ elements "
             "DeepSpeed gathers some again for the backward pass")


def apts(sizes: NetworkSizes, ranks: int) -> StrategyTraffic:
    """Return the traffic of APTS-S by its own formula: a mean of displacements in few bits."""
    formula = trust_region.SHORT_ROUNDS
    steps = int(trust_region.STOCHASTIC["longest_round"].default)
    payloads = formula.payloads(sum(tensor.elements for tensor in sizes.parameters), ranks)
    return StrategyTraffic(
        tuple(Message(name, size) for name, size in payloads.items()), steps,
        f"a round of {steps} local steps, as all but the first have; it {formula.note}")


STRATEGIES: dict[str, Callable[[NetworkSizes, int], StrategyTraffic]] = {
    "ddp": ddp, "fsdp2": fsdp2, "zero1": zero_1_2, "zero2": zero_1_2, "zero3": zero_3,
    "apts": apts,
}
"""What ``bench-apts traffic`` knows."""
