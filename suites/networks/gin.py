"""A graph isomorphism network on dense adjacency matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench_apts.core.configuration import require_positive
from bench_apts.suites import models

if TYPE_CHECKING:
    from collections.abc import Callable


class GIN(nn.Module):
    """A graph isomorphism network; ``gin`` describes the arguments."""

    def __init__(self, features: int, classes: int, width: int, layers: int,
                 activate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(layers))  # epsilon of the paper
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(width if layer else features, width), activate(),
                          nn.Linear(width, width), nn.LayerNorm(width), activate())
            for layer in range(layers))
        self.head = nn.Linear(layers * width, classes)

    def forward(self, graphs: Tensor) -> Tensor:
        """Return logits (b, classes) for graphs (b, n, n + features)."""
        nodes = graphs.shape[1]
        edges, x = graphs[:, :, :nodes], graphs[:, :, nodes:]
        pooled = []
        for own, update in zip(self.own, self.updates, strict=True):
            x = update((1 + own) * x + edges @ x)
            pooled.append(x.mean(dim=1))
        return self.head(torch.cat(pooled, dim=-1))  # type: ignore[no-any-return]


def gin(features: int, classes: int, width: int = 32, layers: int = 3, activation: str = "relu"
        ) -> nn.Module:
    """Return the network of Xu et al. 2019 (arXiv 1810.00826) for graphs of equal size.

    A layer adds up the vectors of a node, times 1 + epsilon, and of its neighbours, and applies
    an MLP of two layers. The nodes' means after each layer go into one linear head. LayerNorm
    takes the place of BatchNorm, so that a sample's loss does not depend on its batch.

    Args:
        features: The number of features of a node.
        classes: The number of logits.
        width: The width of a node's vector.
        layers: The number of rounds of messages.
        activation: One of ``models.ACTIVATIONS``.

    Returns:
        A module from graphs to logits (b, classes). Graphs are float (b, n, n + features): the
        adjacency matrices, and next to each row the features of its node.

    Raises:
        UserError: A size is not a positive integer, or the activation is unknown.
    """
    require_positive("model 'gin'", features=features, classes=classes, width=width, layers=layers)
    activate = models.choice("activation of model 'gin'", activation, models.ACTIVATIONS)
    return GIN(features, classes, width, layers, activate)
