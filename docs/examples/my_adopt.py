"""An optimizer of the package pytorch_optimizer: ADOPT (arXiv 2411.02853)."""

from bench_apts.contract import Backend, Hyperparameter, LogUniform


def build(model, loss, values, world):
    """Import what takes seconds here, where it is needed."""
    from pytorch_optimizer import ADOPT

    from bench_apts.optimizers.data_parallel import DataParallelStepper

    return DataParallelStepper(model, loss, world, lambda parameters: ADOPT(
        parameters, lr=values["lr"]))


backend = Backend(
    "my-adopt", "ADOPT with a cosine schedule",
    {"lr": Hyperparameter(1e-3, "peak learning rate", LogUniform(1e-4, 1e-1))},
    build, requires=("pytorch_optimizer",), install="pytorch_optimizer")
