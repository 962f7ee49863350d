"""Networks that a suite of tests names by ``mechanics_models:NAME``."""

import torch
from torch import nn

from bench_apts.tasks import Task


class Noisy(nn.Module):
    """Dropout, and noise that the network draws itself."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(64, 32), nn.Dropout(0.3), nn.Linear(32, 10)

    def forward(self, inputs):
        hidden = self.drop(torch.tanh(self.first(inputs)))
        if self.training:
            hidden = hidden + 0.1 * torch.randn_like(hidden)
        return self.last(hidden)


def batchnorm():
    """A network whose evaluation needs statistics."""
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


class Slope(Task):
    """The squared slope of the network, which needs a derivative."""

    def losses(self, model, batch):
        """Returns one loss per sample."""
        inputs = batch.inputs.detach().requires_grad_()
        slope, = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return (slope.square().sum(1) - 1).square()
