"""Courses of backends with and without micro-batches, on a rank."""

import itertools

LAYERS = (8, 16, 3)
BATCH, STEPS = 32, 4


def course(connect, names):
    """Returns by backend two courses: with whole batches, and with parts of 5 samples."""
    import os

    import torch
    import torch.distributed as dist

    from bench_apts.meters.comm import CollectiveCounter

    meter = CollectiveCounter()
    meter.install()
    connect()
    rank = dist.get_rank()
    os.environ.update(LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    return {name: [_course(meter, rank, name, most) for most in (0, 5)] for name in names}


def _course(meter, rank, name, most):
    import torch
    from torch import nn

    from bench_apts.contract import Batch, World

    torch.manual_seed(0)
    model = nn.Sequential(*itertools.chain.from_iterable(
        (nn.Linear(*pair), nn.Tanh()) for pair in itertools.pairwise(LAYERS)))
    world = World(rank, 2, torch.device("cpu"), BATCH, 10 * BATCH, micro_batch=most)
    stepper = _build(name, model, nn.functional.cross_entropy, world)
    generator = torch.Generator().manual_seed(1)
    losses, reports, traffic = [], [], []
    for number in range(STEPS):
        inputs = torch.randn(BATCH, LAYERS[0], generator=generator)
        targets = torch.randint(LAYERS[-1], (BATCH,), generator=generator)
        own = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        meter.phase = f"{name} {most} {number}"
        report = stepper.step(Batch(inputs[own], targets[own]))
        losses.append(float(report.loss))
        reports.append((report.samples, report.forwards, report.backwards))
        traffic.append({kind: (t.calls, t.payload_bytes) for kind, t
                        in meter.snapshot().get(meter.phase, {}).items()})
    meter.phase = "eval"
    module = stepper.evaluation_model()
    module.eval()
    with torch.no_grad():
        outputs = module(torch.linspace(-1, 1, 4 * LAYERS[0]).view(4, -1)).numpy()
    return {"losses": losses, "reports": reports, "traffic": traffic, "outputs": outputs}


def _build(name, model, loss, world):
    import torch

    from bench_apts.optimizers.data_parallel import DataParallelStepper
    from bench_apts.plugins import registry

    if name == "lbfgs":
        return DataParallelStepper(
            model, loss, world, lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))
    backend = registry.optimizer(name).backend
    return backend.build(model, loss, backend.configure({}), world)
