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


class Squares(Task):
    """Losses without derivatives of the network, which has one output."""

    def losses(self, model, batch):
        """Returns one loss per sample."""
        return (model(batch.inputs).squeeze(1) - 1).square()


class Tied(nn.Module):
    """A head that shares the weights of an embedding; of tokens ``(b, t)``."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.hidden(self.embedding(tokens).mean(1))))


class Double(Tied):
    """Parameters of 64 bits."""

    def __init__(self):
        super().__init__()
        self.double()
