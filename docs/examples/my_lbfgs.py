"""An optimizer that calls a closure: L-BFGS of torch, with a line search."""

import torch

from bench_apts.contract import Backend, Hyperparameter, LogUniform
from bench_apts.optimizers.data_parallel import DataParallelStepper


def build(model, loss, values, world):
    """Each call of the closure is a pass over the minibatch, counted and averaged as such."""
    return DataParallelStepper(model, loss, world, lambda parameters: torch.optim.LBFGS(
        parameters, lr=values["lr"], max_iter=4, history_size=10, line_search_fn="strong_wolfe"))


backend = Backend("my-lbfgs", "L-BFGS, four iterations on each minibatch", {
    "lr": Hyperparameter(0.3, "first length of a line search", LogUniform(0.03, 1.0))}, build)
