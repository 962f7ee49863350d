"""Data, networks and a task of one's own, named by the suites beside this file."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from bench_apts.tasks import Metric, Task


def breast_cancer():
    """Two classes from 30 measurements: (train, test), each a pair of arrays."""
    from sklearn.datasets import load_breast_cancer

    inputs, targets = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    train, test = order[:469], order[469:]
    return (inputs[train], targets[train]), (inputs[test], targets[test])


def diabetes():
    """A number from ten measurements, with a validation split of its own."""
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True)
    parts = {"train": slice(0, 300), "validation": slice(300, 370), "test": slice(370, None)}
    return {name: (inputs[part], targets[part]) for name, part in parts.items()}


def mlp(inputs, outputs, width=32):
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))


def characters(context=16):
    """Windows of a text: inputs are characters' numbers, targets those of the next ones."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    text = " ".join(np.random.default_rng(0).choice(words, 6_000))
    tokens = np.frombuffer(text.encode("ascii"), np.uint8)
    count = (len(tokens) - 1) // context
    inputs = tokens[:count * context].reshape(count, context)
    targets = tokens[1:count * context + 1].reshape(count, context)
    end = count * 9 // 10
    return (inputs[:end], targets[:end]), (inputs[end:], targets[end:])


class CharacterModel(nn.Module):
    """A transformer of one layer: tokens ``(b, t)`` to logits ``(b, t, 128)``."""

    def __init__(self, context=16, width=32):
        super().__init__()
        self.token, self.place = nn.Embedding(128, width), nn.Embedding(context, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, tokens):
        """Predict the next token at every place."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        places = torch.arange(length, device=tokens.device)
        return self.head(self.block(self.token(tokens) + self.place(places), mask, is_causal=True))


def interval():
    """Points in [0, 1], and the exact solution there."""
    rng = np.random.default_rng(0)
    points = [rng.random((count, 1)) for count in (400, 100, 100)]
    return tuple((x, np.sin(np.pi * x[:, 0])) for x in points)


class Poisson(Task):
    """-u'' = pi**2 sin(pi x) with u(0) = u(1) = 0, by the residuals of the network."""

    metrics = {"l2": Metric("min", final=math.sqrt)}

    def losses(self, model, batch):
        """Return the squared residual at each point."""
        x = batch.inputs.detach().requires_grad_()
        slope, = torch.autograd.grad(_solution(model, x).sum(), x, create_graph=True)
        bend, = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (bend + math.pi**2 * torch.sin(math.pi * x)).squeeze(1).square()

    def measures(self, model, batch):
        """Compare with the exact solution: the relative error is the root of sum by count."""
        error = _solution(model, batch.inputs) - batch.targets
        return {"l2": (error.square().sum(), batch.targets.square().sum())}


def _solution(model, x):
    return (x * (1 - x) * model(x)).squeeze(1)
