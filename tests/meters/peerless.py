"""A process group of any size with one process in it: what a rank of 512 sends, on a laptop.

Collectives end at once, as if every other rank held what this one holds. A meter needs no more:
it sees what this rank asks for, in the sizes that N makes of it, and training goes on. Only what
data-parallel optimizers use is here; any other operation raises.
"""

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future

NAME = "peerless"


class Peerless(dist.distributed_c10d.C10DBackend):
    """One of ``size`` ranks that are all alike; the others do not exist.

    ``outgoing`` collects what this rank broadcasts. ``incoming`` is what others sent, in order:
    without it, a broadcast leaves a rank with what it has.
    """

    def __init__(self, rank, size, outgoing, incoming):
        super().__init__(rank, size)
        self.outgoing, self.incoming = outgoing, incoming

    def getBackendName(self):  # c10d calls it so
        return NAME

    def allreduce(self, tensors, options):
        for tensor in tensors:
            self._reduce(tensor, options.reduceOp)
        return _done(tensors)

    def allreduce_coalesced(self, tensors, options):
        return self.allreduce(tensors, options)

    def broadcast(self, tensors, options):
        for tensor in tensors:
            if options.rootRank == self.rank():
                self.outgoing.append(tensor.numpy().copy())
            elif self.incoming is not None:
                tensor.copy_(torch.from_numpy(next(self.incoming)))
        return _done(tensors)

    def allgather(self, outputs, inputs, options):
        for slots, own in zip(outputs, inputs, strict=True):
            for slot in slots:
                slot.copy_(own)
        return _done([slot for slots in outputs for slot in slots])

    def all_gather_single(self, output, own, options):
        # A copy, because what goes in is often a part of what comes out.
        output.view(self.size(), -1).copy_(own.clone().view(1, -1))
        return _done([output])

    def all_gather_single_coalesced(self, outputs, inputs, options):
        for output, own in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, own, options)
        return _done(outputs)

    def reduce_scatter_single(self, output, whole, options):
        output.view(-1).copy_(whole.view(self.size(), -1)[self.rank()])
        self._reduce(output, options.reduceOp)
        return _done([output])

    def reduce_scatter_single_coalesced(self, outputs, inputs, options):
        for output, whole in zip(outputs, inputs, strict=True):
            self.reduce_scatter_single(output, whole, options)
        return _done(outputs)

    def barrier(self, options):
        return _done([])

    def _reduce(self, tensor, operation):
        if operation.op == dist.ReduceOp.SUM:
            tensor.mul_(self.size())
        elif operation.op not in (dist.ReduceOp.MAX, dist.ReduceOp.MIN):
            raise ValueError(f"{operation.op} over equal ranks")


def _done(tensors):
    """Work that is over, with the real future that DDP's reducer asks for."""
    future = torch.futures.Future()
    future.set_result(tensors)
    return _create_work_from_future(future)


def connect(rank, size, incoming=None):
    """Joins a world of ``size`` ranks as ``rank``, once per process.

    ``incoming``: what its rank 0 returned. Returns the list of what this rank will broadcast.
    """
    outgoing, incoming = [], None if incoming is None else iter(incoming)
    dist.Backend.register_backend(
        NAME, lambda store, rank, size, timeout: Peerless(rank, size, outgoing, incoming),
        devices=["cpu"])
    dist.init_process_group(NAME, store=dist.HashStore(), rank=rank, world_size=size)
    return outgoing
