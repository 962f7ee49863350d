"""Bytes of a collective: the logical tensor, the ideal on any network, the actual ones of gloo.

What gloo sends follows from its source (github.com/pytorch/gloo, gloo/*.cc) and from torch's use
of it (ProcessGroupGloo.cpp); the kernel's counts agree to the byte, see tests/meters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from bench_apts.core.records import Audited

COLLECTIVES = {
    "ALLREDUCE": "all_reduce",
    "ALLREDUCE_COALESCED": "all_reduce",
    "BROADCAST": "broadcast",
    "REDUCE": "reduce",
    "ALLGATHER": "all_gather",
    "ALLGATHER_BASE": "all_gather",
    "ALLGATHER_COALESCED": "all_gather",
    "ALLGATHER_INTO_TENSOR_COALESCED": "all_gather",
    "REDUCE_SCATTER": "reduce_scatter",
    "REDUCE_SCATTER_BASE": "reduce_scatter",
    "REDUCE_SCATTER_TENSOR_COALESCED": "reduce_scatter",
    "ALLTOALL": "all_to_all",
    "ALLTOALL_BASE": "all_to_all",
    "GATHER": "gather",
    "SCATTER": "scatter",
    "SEND": "send",
    "RECV": "recv",
    "RECV_ANY_SOURCE": "recv",
    "BARRIER": "barrier",
    "MONITORED_BARRIER": "barrier",
}
"""The common name of each of c10d's operations."""

_ROOTED = frozenset({"broadcast", "reduce", "gather", "scatter"})

_PREAMBLE = 48
"""Bytes of gloo's message header (Op::preamble in gloo/transport/tcp/pair.h)."""

_EXCHANGE = 3 * _PREAMBLE
"""Headers of a message sent and of one received; unlike in a ring, also of empty ones."""

MAX_SEGMENT = 1 << 20
"""Largest part of a ring message in bytes (kMaxSegmentSize in gloo's allreduce.h)."""

HANDSHAKE = 8
"""Bytes that one of the two sides of a new connection sends; which one cannot be known."""


class Call(NamedTuple):
    """One collective as issued by this rank: all that its bytes depend on.

    Attributes:
        operation: c10d's name for it, a key of ``COLLECTIVES`` if it is known. Versions of torch
            differ in ``ALLTOALL_BASE`` and ``ALLTOALL``; the tensors show which it is.
        root: Rank in the group that it starts or ends at; −1 where there is none.
        dtype: Of the elements; None without tensors.
        inputs: Bytes of each tensor that goes in, on this rank.
        outputs: Bytes of each tensor that comes out; none where it works in place.
        splits: Elements of the input for each rank in an uneven all-to-all, if they are known.
        unmeasured: Why it could not be read; empty where it was.
    """

    operation: str
    root: int = -1
    dtype: torch.dtype | None = None
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    splits: tuple[int, ...] = ()
    unmeasured: str = ""

    @property
    def collective(self) -> str:
        """The common name."""
        return COLLECTIVES.get(self.operation, self.operation.lower())

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize if self.dtype else 1


def payload_bytes(collective: str, inputs: Sequence[int], outputs: Sequence[int], ranks: int
                  ) -> int:
    """Return the bytes of the logical tensor, the whole one where ranks hold parts of it.

    That is the larger side of a collective's tensors, also of an unknown collective. Of a gather
    or scatter only the root has it, so it is N times the part that every rank has.
    """
    if collective == "barrier":
        return 0
    if collective in ("gather", "scatter"):
        return ranks * min(filter(None, (sum(inputs), sum(outputs))), default=0)
    return max(sum(inputs), sum(outputs))


def ideal_bytes(collective: str, payload: int, ranks: int) -> float:
    """Return the bytes that one rank must send, averaged over the group's ranks.

    The lower bounds of docs/measurement.md, 3 for payload S and f = (N−1)/N: all-reduce 2f·S;
    all-gather, reduce-scatter and all-to-all f·S; broadcast and reduce f·S averaged over ranks;
    gather and scatter f·S/N likewise; a send is its payload; receiving sends nothing.

    Args:
        collective: One of the names that this module uses, for instance ``"all_reduce"``.
        payload: Bytes of the logical tensor: the full one for all-gather and reduce-scatter.
        ranks: Size of the group.
    """
    share = (ranks - 1) / ranks
    if collective in ("recv", "barrier"):
        return 0.0
    if collective == "send":
        return float(payload)
    if collective in ("gather", "scatter"):
        return share * payload / ranks
    return (2 if collective == "all_reduce" else 1) * share * payload


def gloo_bytes(call: Call, rank: int, ranks: int) -> int:
    """Return the bytes that gloo's TCP transport writes on this rank, headers included.

    Args:
        call: The collective as issued here.
        rank: This process's number in the group.
        ranks: Size of the group.

    Raises:
        ValueError: The collective is unknown, or its arguments are.
    """
    size, peers = sum(call.inputs), ranks - 1
    if call.operation not in COLLECTIVES:
        raise ValueError("the operation is not known")
    if call.collective in _ROOTED and not 0 <= call.root < ranks:
        raise ValueError(f"rank {call.root} is not in its group of {ranks}")
    match call.collective:
        case _ if ranks == 1:
            return 0
        case "all_reduce":  # coalesced ones travel as one flat tensor
            return _all_reduce(size, call.itemsize, rank, ranks)
        case "reduce_scatter":  # torch: an all-reduce of each input tensor
            return sum(_all_reduce(part, call.itemsize, rank, ranks) for part in call.inputs)
        case "all_gather":  # a ring in which each rank's part travels as two halves
            return peers * (2 * _EXCHANGE + size) if size else 0
        case "reduce":
            return _reduce(size, call.itemsize, rank, ranks, call.root)
        case "broadcast":
            return _broadcast(size, (rank - call.root) % ranks, ranks)
        case "all_to_all":
            return peers * _EXCHANGE + size - _own_part(call, rank, ranks)
        case "gather":
            return peers * _PREAMBLE if rank == call.root else 2 * _PREAMBLE + size
        case "scatter":
            if rank != call.root:
                return _PREAMBLE
            return peers * 2 * _PREAMBLE + size - _own_part(call, rank, ranks)
        case "send":
            return 2 * _PREAMBLE + size
        case "recv":
            return _PREAMBLE
        case "barrier" if call.operation == "MONITORED_BARRIER":  # an int32 to rank 0 and back
            return (1 if rank else peers) * (_EXCHANGE + 4)
        case "barrier":  # dissemination: each round a message to a rank twice as far away
            return peers.bit_length() * _EXCHANGE
    raise ValueError(f"no bytes are known of {call.collective}")


def uncertainty(call: Call, ranks: int) -> int:
    """Return by how many bytes ``gloo_bytes`` may be wrong: an all-to-all of unknown splits."""
    if call.collective != "all_to_all" or len(call.inputs) != 1 or call.splits or ranks == 1:
        return 0
    size = sum(call.inputs)
    even = size == sum(call.outputs) and size % (ranks * call.itemsize) == 0
    return 0 if even else size


def _sent(length: int) -> int:
    """A message: "ready to send", then the header and the data; nothing if it would be empty."""
    return 2 * _PREAMBLE + length if length > 0 else 0


def _received(length: int) -> int:
    """The receiver's "ready to receive"."""
    return _PREAMBLE if length > 0 else 0


def _own_part(call: Call, rank: int, ranks: int) -> int:
    """Bytes of an all-to-all, or of a scatter's root, that stay on this rank."""
    size = sum(call.inputs)
    if len(call.inputs) == ranks:  # a tensor for each rank
        return call.inputs[rank]
    if len(call.inputs) != 1:
        raise ValueError(f"{len(call.inputs)} input tensors in a group of {ranks}")
    if call.splits and sum(call.splits):
        return size * call.splits[rank] // sum(call.splits)
    return size // ranks


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _ring(total: int, segment: int, count: int, ranks: int, first: int, steps: int) -> int:
    """Bytes written in one pass around the ring.

    Args:
        total: Bytes of the tensor.
        segment: Bytes of one segment; the last ones may be cut short or empty.
        count: Segments, a multiple of ``ranks``.
        ranks: Size of the group.
        first: Chunk (``count / ranks`` segments) sent first; the next one is received first.
        steps: Segments sent and received.
    """
    chunk, written = count // ranks, 0
    for step in range(steps):
        out, into = ((first * chunk + step) % count, ((first + 1) * chunk + step) % count)
        written += _sent(min(segment, total - out * segment))
        written += _received(total - into * segment)
    return written


def _all_reduce(total: int, itemsize: int, rank: int, ranks: int) -> int:
    """A ring: reduce-scatter, then all-gather, in at least two segments per rank."""
    if total == 0:
        return 0
    largest = itemsize * max(1, MAX_SEGMENT // itemsize)
    count = _round_up(max(-(-total // largest), 2 * ranks), ranks)
    segment = _round_up(-(-total // count), itemsize)
    steps = count - count // ranks
    return (_ring(total, segment, count, ranks, rank + 1, steps)
            + _ring(total, segment, count, ranks, rank, steps))


def _reduce(total: int, itemsize: int, rank: int, ranks: int, root: int) -> int:
    """A ring reduce-scatter, then every rank's chunk goes to the root.

    Above 2 MiB per rank gloo's loop runs over more segments than it needs to; so does this one.
    """
    if total == 0:
        return 0
    largest = itemsize * max(1, MAX_SEGMENT // itemsize)
    segment = _round_up(min(-(-total // (2 * ranks)), largest), itemsize)
    count = _round_up(max(-(-total // segment), 2 * ranks), ranks)
    chunk = count // ranks * segment
    written = _ring(total, segment, count, ranks, rank + 1, count - 2)
    if rank != root:
        return written + _sent(min(chunk, total - rank * chunk))
    return written + sum(_received(total - peer * chunk) for peer in range(ranks) if peer != root)


def _broadcast(size: int, distance: int, ranks: int) -> int:
    """A binomial tree; ``distance`` is the rank's, counted from the root."""
    written, reach = 0, 1
    while reach < ranks:
        if distance < reach:
            written += 2 * _PREAMBLE + size if distance + reach < ranks else 0
        elif distance < 2 * reach:
            written += _PREAMBLE
        reach *= 2
    return written


_TOLERANCE_BYTES, _TOLERANCE = 1000, 0.001


def traffic_complaints(audited: Audited) -> list[str]:
    """Return a line for each part in which the kernel saw other bytes than were predicted."""
    lines: list[str] = []
    if audited.skipped:  # some bytes could not be predicted, or not be read
        return lines
    for name, part in audited.parts.items():
        allowed = max(_TOLERANCE_BYTES, _TOLERANCE * part.predicted_bytes) + part.unsure_bytes
        if abs(part.difference) > allowed:
            lines.append(
                f"rank {audited.rank} sent {part.seen_bytes} bytes in {name}, its collectives "
                f"account for {part.predicted_bytes}: something communicated behind the meter's "
                "back")
    return lines
