"""A network of 64 bits, trained by a backend on a rank."""

BATCH, STEPS = 16, 5


def courses(connect, backends):
    """Returns by backend what this rank sees of a few steps."""
    import os

    import torch
    import torch.distributed as dist

    connect()
    os.environ.update(LOCAL_RANK=str(dist.get_rank()), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    return {backend: _course(backend) for backend in backends}


def _course(backend):
    import mechanics_models
    import torch
    import torch.distributed as dist
    from torch import nn

    from bench_apts.contract import Batch, World
    from bench_apts.plugins import registry, replicas
    from bench_apts.trial import warmup
    from bench_apts.trial.contract_checks import ReportCheck

    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    network = mechanics_models.Double()
    found = registry.optimizer(backend).backend
    world = World(rank, size, torch.device("cpu"), BATCH, 20 * BATCH)
    stepper = found.build(network, nn.functional.cross_entropy, found.configure({}), world)
    generator = torch.Generator().manual_seed(1)

    def batch():
        tokens = torch.randint(20, (BATCH, 6), generator=generator)
        own = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        return Batch(tokens[own], tokens[own, 0])

    warmup.prove_undone(stepper, network, [batch() for _ in range(3)], world, ReportCheck())
    losses = [float(stepper.step(batch()).loss) for _ in range(STEPS)]
    module = stepper.evaluation_model()
    module.eval()
    with torch.no_grad():
        module(batch().inputs)
    return {"losses": losses, "prints": replicas.model_fingerprints(module),
            "tied": network.head.weight is network.embedding.weight,
            "dtype": str(network.head.weight.dtype)}
