"""A module of losses under FSDP2, on a rank."""

SAMPLES, STEPS = 12, 3


def problem(differentiates):
    """A network, a task whose losses may need second derivatives, and a batch."""
    import torch
    from mechanics_models import Slope, Squares
    from torch import nn

    from bench_apts.contract import Batch

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(),
                            nn.Linear(8, 1, bias=False))
    task = Slope() if differentiates else Squares()
    return network, task, Batch(torch.randn(SAMPLES, 3), torch.zeros(SAMPLES))


def sharded(connect, sharding):
    """Returns losses of steps, and the metrics of the whole batch after them, by task.

    Where losses differentiate the network, it is sharded as one unit: a layer that is one of its
    own is freed after its pass, before it is differentiated again.
    """
    connect()
    return [_course(sharding, True), _course(sharding, False)]


def _course(sharding, differentiates):
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from bench_apts.contract import Batch
    from bench_apts.tasks.loss_module import measured, model_inputs, trained
    from bench_apts.trial.trained_model import instrument

    network, task, whole = problem(differentiates)
    model, loss = trained(network, task)
    passes = instrument(model, type(model).forward)
    if sharding:
        if not differentiates:
            fully_shard(network[2])
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    share = SAMPLES // dist.get_world_size()
    own = slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    batch = model_inputs(task, Batch(whole.inputs[own], whole.targets[own]))
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(model(batch.inputs), batch.targets)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    model.eval()
    with torch.no_grad():
        sums = measured(model, task, whole)
    return losses, sums.tolist(), passes.state()
