"""An optimizer written out in its file: Lion (arXiv 2302.06675)."""

import torch

from bench_apts.contract import Backend, Hyperparameter, LogUniform
from bench_apts.optimizers.data_parallel import DataParallelStepper


class Lion(torch.optim.Optimizer):
    """Steps by the sign of an average of gradients."""

    @torch.no_grad()
    def step(self):
        """Take one step along the gradients, which the stepper has averaged over the ranks."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # a frozen one
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(torch.lerp(p.grad, m, 0.9).sign_(), alpha=group["lr"])
                m.lerp_(p.grad, 0.01)


def build(model, loss, values, world):
    """Leave replicas, schedule, samples and checkpoints to the ready-made stepper."""
    return DataParallelStepper(model, loss, world, lambda p: Lion(p, {"lr": values["lr"]}))


backend = Backend("my-lion", "Lion in 30 lines", {
    "lr": Hyperparameter(1e-4, "peak learning rate", LogUniform(1e-5, 1e-2))}, build)
