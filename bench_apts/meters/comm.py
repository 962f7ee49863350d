"""Bytes on the network, counted at the one place that every collective passes.

``ProcessGroup.register_pre_hook`` (torch 2.14 and later) fires in the c10d dispatcher below
Python, so it sees what DDP's C++ reducer, DeepSpeed and compiled programs send as well as plain
calls. All groups are registered through ``distributed_c10d._register_pg_in_world``; wrapping it
before ``init_process_group`` hooks every group at its birth. Counting is host arithmetic on
tensor sizes: nothing is synchronised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.records import Communication, Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOOK_ID = 0x0A9750

# How the names of c10d's operations map to the collectives that people know.
_COLLECTIVE = {
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
}


def ideal_bytes(collective: str, payload: int, ranks: int) -> float:
    """Returns the bytes that one rank must send, averaged over the group's ranks.

    The lower bounds of MEASUREMENT section 3 for payload S and f = (N−1)/N: all-reduce 2f·S;
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


def payload_bytes(
    collective: str, inputs: Sequence[Any], outputs: Sequence[Any], ranks: int
) -> int:
    """Returns the logical tensor's bytes: the full one wherever ranks hold parts of it.

    That is the larger side of a collective's tensors; of a gather or scatter only the root sees
    it, so there it is N times the part that every rank has.
    """

    def size(tensors: Sequence[Any]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    if collective == "barrier":
        return 0
    if collective in ("gather", "scatter"):
        return ranks * min(filter(None, (size(inputs), size(outputs))), default=0)
    return max(size(inputs), size(outputs))


class CommMeter:
    """Counts the collectives of this process by phase.

    Attributes:
        phase: What is being done now: ``setup``, ``warmup``, ``train`` or ``eval``.
        name: How the counting is done, or ``none (reason)``; stands in the record.
    """

    def __init__(self) -> None:
        self.phase = "setup"
        self.name = "none (install() was not called)"
        self._counts: dict[tuple[str, str], Traffic] = {}

    def install(self) -> None:
        """Hooks every process group made from now on; call before ``init_process_group``.

        Where torch is too old to have the hook, nothing is counted and ``name`` says so: the
        record then holds no bytes rather than wrong ones.
        """
        import torch
        from torch.distributed import ProcessGroup, distributed_c10d

        if not hasattr(ProcessGroup, "register_pre_hook"):
            self.name = f"none (torch {torch.__version__} lacks ProcessGroup.register_pre_hook)"
            return
        self.name = "c10d pre-hook"
        register = distributed_c10d._register_pg_in_world

        def register_and_hook(group: Any, *args: Any, **kwargs: Any) -> None:
            register(group, *args, **kwargs)
            self.watch(group)

        setattr(distributed_c10d, register.__name__, register_and_hook)

    def watch(self, group: Any) -> None:
        """Counts the collectives of one process group."""
        ranks = group.size()
        group.register_pre_hook(_HOOK_ID, lambda args: self._count(args, ranks))

    def _count(self, args: Any, ranks: int) -> None:
        operation = args.name.name
        collective = _COLLECTIVE.get(operation, operation.lower())
        payload = payload_bytes(collective, args.input_tensors, args.output_tensors, ranks)
        key = (self.phase, collective)
        traffic = self._counts.get(key)
        if traffic is None:
            traffic = self._counts[key] = Traffic()
        traffic.calls += 1
        traffic.payload_bytes += payload
        traffic.ideal_bytes += ideal_bytes(collective, payload, ranks)

    @property
    def counting(self) -> bool:
        """Whether this meter sees anything at all."""
        return not self.name.startswith("none")

    def snapshot(self) -> Communication:
        """Returns a copy of the counts so far, by phase and collective."""
        counts: Communication = {}
        for (phase, collective), traffic in sorted(self._counts.items()):
            counts.setdefault(phase, {})[collective] = Traffic(
                traffic.calls, traffic.payload_bytes, traffic.ideal_bytes)
        return counts
