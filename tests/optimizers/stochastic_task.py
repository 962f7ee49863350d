"""What the tests of ``variant="stochastic"`` train: a small network on endless random data."""

import hashlib

import torch
from torch import nn

from bench_apts.optimizers.apts import APTS


class Task:
    """A rank's network; each call of ``step`` sees its next ``size`` samples.

    ``disturb(backward, losses)`` may do anything to the losses before their backward pass.
    """

    def __init__(self, rank=0, batch_norm=False, samples=10**6, size=16, dtype=torch.float32,
                 group=None, variant="stochastic", muon=False, **settings):
        torch.manual_seed(0)
        layers = [nn.Linear(5, 8), nn.BatchNorm1d(8)] if batch_norm else [nn.Linear(5, 8)]
        self.model = nn.Sequential(*layers, nn.Tanh(), nn.Linear(8, 3)).to(dtype)
        self.generator = torch.Generator().manual_seed(100 + rank)
        self.truth = torch.randn(5, 3, generator=torch.Generator().manual_seed(7))
        self.size, self.dtype = size, dtype
        self.disturb = lambda backward, losses: losses
        if variant == "stochastic":
            settings["samples"] = samples
        parameters = list(self.model.parameters())
        if muon:  # for the first matrix
            parameters = [{"params": parameters[:1], "direction": "muon"},
                          {"params": parameters[1:]}]
        self.optimizer = APTS(parameters, group, variant=variant,
                              buffers=self.model.buffers(), **settings)
        self.n = sum(p.numel() for p in self.model.parameters())

    def batch(self):
        inputs = torch.randn(self.size, 5, generator=self.generator)
        return inputs.to(self.dtype), (inputs @ self.truth).argmax(dim=1)

    def step(self):
        inputs, targets = self.batch()

        def closure(backward):
            losses = nn.functional.cross_entropy(self.model(inputs), targets, reduction="none")
            losses = self.disturb(backward, losses)
            if backward:
                losses.mean().backward()
            return losses.detach()

        self.optimizer.step(closure)
        return self.optimizer.last

    def take_over(self, other):
        """Go on from where another task of the same rank and settings stands."""
        self.model.load_state_dict(other.model.state_dict())
        self.optimizer.load_state_dict(other.optimizer.state_dict())
        self.generator.set_state(other.generator.get_state())

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone()

    def digest(self):
        tensors = [*self.model.parameters(), *self.model.buffers()]
        data = b"".join(t.detach().float().numpy().tobytes() for t in tensors)
        return hashlib.sha256(data).hexdigest()
