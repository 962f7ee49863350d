"""What ranks do under the meter's eyes: every collective, common trainings, and cheats."""

import dataclasses
import os
from types import SimpleNamespace

import msgspec
import torch_names

from bench_apts.meters.audit import Audit, verdict
from bench_apts.meters.comm import CollectiveCounter


def watched(connect, dispatch=False):
    """Joins the process group with a meter and an audit."""
    import torch
    import torch.distributed as dist

    from bench_apts.contract import World

    if dispatch:
        os.environ["BENCH_APTS_COMM_METER"] = "dispatch"
    meter = CollectiveCounter()
    meter.install()
    connect()
    audit = Audit(meter)
    rank, size = dist.get_rank(), dist.get_world_size()
    world = World(rank, size, torch.device("cpu"), 8 * size, 10_000)
    return SimpleNamespace(dist=dist, torch=torch, meter=meter, audit=audit, rank=rank, size=size,
                           world=world)


def collectives(w, n):
    """Every kind of collective on tensors of ``n`` floats."""
    dist, torch, rank, size = w.dist, w.torch, w.rank, w.size
    group = dist.group.WORLD
    one, whole = torch.ones(n), torch.ones(n * size)
    parts = [torch.ones(n) for _ in range(size)]
    nothing = [torch.ones(0) for _ in range(size)]
    at_root = parts if rank == 0 else None

    def send_or_receive(*source):
        if rank == 0:
            dist.send(one, 1)
        elif rank == 1:
            dist.recv(one, *source)

    found = {
        "all_reduce": lambda: dist.all_reduce(one),
        "all_reduce_async": lambda: dist.all_reduce(one, async_op=True).wait(),
        "all_reduce_max": lambda: dist.all_reduce(one, op=dist.ReduceOp.MAX),
        "all_reduce_double": lambda: dist.all_reduce(one.double()),
        "all_reduce_bfloat16": lambda: dist.all_reduce(one.bfloat16()),
        "all_reduce_int64": lambda: dist.all_reduce(one.long()),
        "all_reduce_uint8": lambda: dist.all_reduce(torch.ones(n, dtype=torch.uint8)),
        "all_reduce_complex": lambda: dist.all_reduce(one.to(torch.complex64)),
        "all_reduce_scalar": lambda: dist.all_reduce(torch.tensor(1.0)),
        "all_reduce_nothing": lambda: dist.all_reduce(nothing[0]),
        "all_reduce_coalesced": lambda: group.allreduce_coalesced([one, one.clone()]).wait(),
        "all_reduce_in_inference": torch.inference_mode()(lambda: dist.all_reduce(torch.ones(n))),
        "broadcast": lambda: dist.broadcast(one, 1 % size),
        "broadcast_nothing": lambda: dist.broadcast(nothing[0], 0),
        "reduce": lambda: dist.reduce(one, 1 % size),
        "reduce_nothing": lambda: dist.reduce(nothing[0], 0),
        "all_gather": lambda: dist.all_gather(parts, one),
        "all_gather_nothing": lambda: dist.all_gather(nothing, torch.ones(0)),
        "all_gather_single": lambda: torch_names.all_gather_single(whole, one),
        "all_gather_coalesced": lambda: group.allgather_coalesced(
            [[torch.ones(n), torch.ones(3)] for _ in range(size)], [one, torch.ones(3)]).wait(),
        "all_gather_into_tensor_coalesced": lambda: group.allgather_into_tensor_coalesced(
            [whole, whole.clone()], [one, one.clone()]).wait(),
        "all_gather_object": lambda: dist.all_gather_object([None] * size, {"answer": 42}),
        "reduce_scatter": lambda: dist.reduce_scatter(one, parts),
        "reduce_scatter_single": lambda: torch_names.reduce_scatter_single(one, whole),
        "reduce_scatter_tensor_coalesced": lambda: group.reduce_scatter_tensor_coalesced(
            [one, one.clone()], [whole, whole.clone()]).wait(),
        "all_to_all": lambda: dist.all_to_all(parts, [part.clone() for part in parts]),
        "all_to_all_single": lambda: dist.all_to_all_single(whole, whole.clone()),
        "gather": lambda: dist.gather(one, at_root),
        "gather_nothing": lambda: dist.gather(nothing[0], nothing if rank == 0 else None),
        "scatter": lambda: dist.scatter(one, at_root),
        "send": lambda: send_or_receive(0),
        "send_to_anybody": send_or_receive,
        "barrier": dist.barrier,
        "twice": lambda: (dist.all_reduce(one), dist.broadcast(one, 0), dist.all_reduce(whole)),
    }
    if not torch_names.GLOO_ALL_TO_ALL:
        del found["all_to_all"]
    return found


def stay(w):
    """Waits until all have billed: a rank that leaves closes the others' sockets and counts."""
    w.meter.phase = "between"
    w.dist.barrier()


def every_collective(connect, n, dispatch=False):
    """Issues each collective in a phase of its own; returns name, counts and the audit's parts."""
    w = watched(connect, dispatch)
    for name, call in collectives(w, n).items():
        if w.size == 1 and name.startswith("send"):
            continue
        w.meter.phase = "between"
        w.dist.barrier()
        w.audit.bill("between")
        w.meter.phase = name
        call()
        w.audit.bill(name)
    stay(w)
    return (w.meter.name, msgspec.to_builtins(w.meter.snapshot()), w.audit.result(w.rank),
            w.meter.unwatched_groups())


def uneven(connect, dispatch=False):
    """An all-to-all whose splits only the dispatcher knows."""
    w = watched(connect, dispatch)
    w.audit.bill("setup")
    own, every = w.rank + 1, list(range(1, w.size + 1))
    w.dist.all_to_all_single(w.torch.ones(own * w.size), w.torch.ones(sum(every)),
                             [own] * w.size, every)
    w.audit.bill("train")
    stay(w)
    return w.audit.result(w.rank)


def _network(torch, norm=False):
    layers = [torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)]
    if norm:
        layers.insert(1, torch.nn.BatchNorm1d(48))
    return torch.nn.Sequential(*layers)


def _parallel(w, norm=False):
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(_network(w.torch, norm))


def _plain(w, model, optimizer=None):
    optimizer = optimizer or w.torch.optim.Adam(model.parameters())

    def step(number):
        optimizer.zero_grad()
        model(w.torch.randn(4, 64) + number + w.rank).sum().backward()
        optimizer.step()

    return step


def ddp(w):
    return _plain(w, _parallel(w))


def ddp_batchnorm(w):
    return _plain(w, _parallel(w, norm=True))


def fp16_compression(w):
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = _parallel(w)
    model.register_comm_hook(None, fp16_compress_hook)
    return _plain(w, model)


def power_sgd(w):
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power

    model = _parallel(w)
    model.register_comm_hook(power.PowerSGDState(
        None, matrix_approximation_rank=2, start_powerSGD_iter=2), power.powerSGD_hook)
    return _plain(w, model)


def accumulation(w):
    model = _parallel(w)
    step = _plain(w, model)

    def accumulate(number):
        with model.no_sync():
            model(w.torch.randn(4, 64)).sum().backward()
        step(number)

    return accumulate


def zero_redundancy(w):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = _parallel(w)
    return _plain(w, model, ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=w.torch.optim.Adam))


def post_local_sgd(w):
    from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook as local
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    model = _parallel(w)
    near, _ = w.dist.new_subgroups(w.size // 2)
    model.register_comm_hook(local.PostLocalSGDState(None, near, 2), local.post_localSGD_hook)
    return _plain(w, model, PostLocalSGDOptimizer(
        w.torch.optim.SGD(model.parameters(), lr=0.01), PeriodicModelAverager(2, 2)))


def fsdp2(w):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = _network(w.torch)
    mesh = init_device_mesh("cpu", (w.size,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return _plain(w, model)


def backend(w, name, values=None, precision="fp32"):
    """A backend of this package, on minibatches as the harness cuts them."""
    from bench_apts.contract import Batch
    from bench_apts.plugins import registry
    from bench_apts.trial import trained_model

    made = registry.optimizer(name).backend
    world = dataclasses.replace(w.world, precision=precision)
    model = trained_model.in_precision(_network(w.torch), world.device, precision)
    used = set()
    model[0].register_forward_hook(lambda layer, inputs, output: used.add(str(output.dtype)))
    stepper = made.build(model, w.torch.nn.functional.cross_entropy,
                         made.configure(values or {}), world)

    def step(number):
        w.torch.manual_seed(number * w.size + w.rank)
        stepper.step(Batch(w.torch.randn(8, 64), w.torch.randint(10, (8,))))
        assert used == {"torch.bfloat16" if precision == "bf16" else "torch.float32"}

    return step


def engine(w, stage, precision="fp32"):
    """A DeepSpeed engine in the settings of our backends, or with its own kind of bf16."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    model = _network(w.torch)
    made, *_ = deepspeed.initialize(model=model, config={
        "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": stage},
        "bf16": {"enabled": precision == "bf16"},
        "optimizer": {"type": "Adam", "params": {"torch_adam": True}}})
    dtype = w.torch.bfloat16 if precision == "bf16" else w.torch.float32
    assert {p.dtype for p in made.module.parameters()} == {dtype}

    def step(number):
        made.backward(made(w.torch.randn(4, 64, dtype=dtype)).sum())
        made.step()

    return step


def variants(connect, chosen):
    """Trains a few steps with one backend after another, by name and hyperparameters.

    Returns counts, the audit's parts, both by number, and what the verdict complains of.
    """
    w = watched(connect)
    for number, (name, values) in enumerate(chosen):
        w.meter.phase = "between"
        w.torch.manual_seed(0)
        step = backend(w, name, values)
        w.dist.barrier()
        w.audit.bill("between")
        w.meter.phase = str(number)
        for taken in range(8):
            step(taken)
        w.audit.bill(str(number))
    counts = msgspec.to_builtins(w.meter.snapshot())
    return counts, w.audit.result(w.rank), verdict(w.audit, w.meter, w.world)[1]


def training(connect, make, arguments=(), dispatch=False, steps=5):
    """Trains a few steps; returns counts, the audit's parts and what the verdict complains of."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    w = watched(connect, dispatch)
    step = make(w, *arguments)
    for number in range(4):
        step(number)
    w.dist.barrier()
    w.audit.bill("setup")
    w.meter.phase = "train"
    for number in range(4, 4 + steps):
        step(number)
    w.meter.phase = "eval"
    w.dist.barrier()
    w.audit.bill("train")
    counts = msgspec.to_builtins(w.meter.snapshot())
    own = w.audit.result(w.rank)
    return counts, own, verdict(w.audit, w.meter, w.world)


def assert_counts_are_the_hooks(by_hook, by_other, name):
    """What ``every_collective`` returned under another meter is what the hook counted."""
    for (one, counts, _, _), (other, same, audited, unwatched) in zip(
            by_hook, by_other, strict=True):
        assert (one, other) == ("c10d pre-hook", name)
        assert same == counts
        assert {part.difference for part in audited.parts.values()} == {0}
        assert unwatched == []


def assert_every_record_was_counted(folder, name):
    """Trials of a study of two ranks that communicate in training name their meter and agree."""
    from bench_apts.core import store

    records = store.read_trials(folder)
    assert records
    for record in records:
        assert record.start.comm_meter == name
        sent = record.end.comm["train"].values()
        assert sum(traffic.ideal_bytes for traffic in sent) > 0
        assert record.end.audit.parts["train"].difference == 0
