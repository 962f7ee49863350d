"""The order of what a rank asks of its process group, among peers over gloo and without any."""

import os
from types import SimpleNamespace

import msgspec
import peerless
import torch_names

from bench_apts.core.wire import Call, payload_bytes
from bench_apts.meters.comm import CollectiveCounter

SHAPES = {"digits": (64,), "mnist": (1, 28, 28)}
SHARE = 8  # samples of each rank, whatever N is


class Sequence(CollectiveCounter):
    """A meter that also keeps the order: phase, collective, payload bytes, ranks of the group.

    A phase is a kind and the number of an optimizer; the order tells the kind alone.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def _count(self, seen, call, number=-1):
        super()._count(seen, call, number)
        made = Call(*call)
        payload = payload_bytes(made.collective, made.inputs, made.outputs, seen.ranks)
        self.calls.append((self.phase.split()[0], made.collective, payload, seen.ranks))


def joined(connect, place, incoming=None):
    """Joins gloo, or without peers as rank ``place[0]`` of ``place[1]``; returns what it sends."""
    meter = Sequence()
    meter.install()
    return meter, peerless.connect(*place, incoming) if place else connect()


def trained(connect, cases, steps, place=None, suite="digits", incoming=None):
    """Trains by each optimizer as a trial does, from equal weights on equal data on all ranks.

    Args:
        connect: Joins gloo; not called where there is a ``place``.
        cases: Names of optimizers with their hyperparameters. One at most may be ZeRO.
        steps: Training steps of each.
        place: Rank and size of a world without peers.
        suite: Its model is trained.
        incoming: What rank 0 of that world broadcast.

    Returns:
        What was seen of each optimizer, and what this rank broadcast.
    """
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    meter, outgoing = joined(connect, place, incoming)
    return [_train(meter, number, name, values, steps, suite)
            for number, (name, values) in enumerate(cases)], outgoing


def _train(meter, number, name, values, steps, suite):
    import torch
    import torch.distributed as dist

    from bench_apts.contract import Batch, World
    from bench_apts.plugins import registry
    from bench_apts.suites import models
    from bench_apts.trial.trial_run import WARMUP_STEPS

    meter.calls, meter.phase = [], f"setup {number}"
    chosen, backend = registry.suite(suite).model, registry.optimizer(name).backend
    torch.manual_seed(0)
    model = models.build(chosen.name, chosen.options, SHAPES[suite], 10)
    sizes = [parameter.numel() for parameter in model.parameters()]
    rank, size = dist.get_rank(), dist.get_world_size()
    world = World(rank, size, torch.device("cpu"), SHARE * size, 10_000 * size)
    stepper = backend.build(model, torch.nn.functional.cross_entropy,
                            backend.configure(values), world)

    def step():
        return stepper.step(Batch(torch.randn(SHARE, *SHAPES[suite]),
                                  torch.randint(10, (SHARE,))))

    state = stepper.state_dict()
    meter.phase = f"warmup {number}"
    for _ in range(WARMUP_STEPS):
        step()
    meter.phase = f"setup {number}"
    stepper.load_state_dict(state)
    meter.phase = f"train {number}"
    trained, ends, reports = len(meter.calls), [], []
    for _ in range(steps):
        reports.append(step())
        ends.append(len(meter.calls))
    begins = [trained, *ends[:-1]]
    return SimpleNamespace(
        sizes=sizes,
        before=meter.calls[:trained],  # calls of setup and warm-up
        steps=[meter.calls[begin:end] for begin, end in zip(begins, ends, strict=True)],
        losses=[float(report.loss) for report in reports],
        tested=["accepted" in report.diagnostics for report in reports],
        agreed=[report.agreed for report in reports],
        traffic=msgspec.to_builtins(meter.snapshot()[meter.phase]))


def reduced(connect, place=None, incoming=None):
    """What collectives make of tensors that are the same on every rank, by name."""
    import torch
    import torch.distributed as dist

    _, outgoing = joined(connect, place, incoming)
    group, size = dist.group.WORLD, dist.get_world_size()

    def one():
        return torch.arange(1.0, 5.0)

    def gathered(call, *shapes):
        outputs = [torch.zeros(shape) for shape in shapes]
        call(outputs)
        return outputs

    def in_place(call):
        tensor = one()
        work = call(tensor)
        if work is not None:
            work.wait()
        return [tensor]

    def own_slot():
        output = torch.zeros(4 * size)
        part = output[4 * dist.get_rank() :][:4].copy_(one())
        torch_names.all_gather_single(output, part)
        return [output]

    whole = torch.arange(4.0 * size)
    found = {
        "sum": in_place(dist.all_reduce),
        "max": in_place(lambda x: dist.all_reduce(x, op=dist.ReduceOp.MAX)),
        "min": in_place(lambda x: dist.all_reduce(x, op=dist.ReduceOp.MIN)),
        "async": in_place(lambda x: dist.all_reduce(x, async_op=True)),
        "future": dist.all_reduce(one(), async_op=True).get_future().wait(),
        "coalesced": in_place(lambda x: group.allreduce_coalesced([x])),
        "broadcast": in_place(lambda x: dist.broadcast(x.add_(dist.get_rank()), 0)),
        "gather": gathered(lambda out: dist.all_gather(out, one()), *[4] * size),
        "gather into": gathered(
            lambda out: torch_names.all_gather_single(out[0], one()), 4 * size),
        "gather into own": own_slot(),
        "gather coalesced": gathered(lambda out: group.allgather_into_tensor_coalesced(
            out, [one(), one() + 1]).wait(), 4 * size, 4 * size),
        "scatter": gathered(lambda out: torch_names.reduce_scatter_single(out[0], whole), 4),
        "scatter coalesced": gathered(lambda out: group.reduce_scatter_tensor_coalesced(
            out, [whole, whole + 1]).wait(), 4, 4),
    }
    dist.barrier()
    return {name: [tensor.tolist() for tensor in tensors]
            for name, tensors in found.items()}, outgoing


def refused(connect):
    """What equal ranks cannot tell raises; returns the errors."""
    import torch
    import torch.distributed as dist

    joined(connect, (1, 64))
    errors = []
    for call in (lambda: dist.all_reduce(torch.ones(3), op=dist.ReduceOp.PRODUCT),
                 lambda: dist.send(torch.ones(3), 0), lambda: dist.recv(torch.ones(3), 0),
                 lambda: dist.reduce(torch.ones(3), 0)):
        try:
            call()
        except (RuntimeError, ValueError) as error:
            errors.append(str(error))
    return errors
