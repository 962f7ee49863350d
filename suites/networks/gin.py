"""A graph isomorphism network on dense adjacency matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..sizes import positive


class GIN(nn.Module):
    """A graph isomorphism network; ``gin`` describes the arguments."""

    def __init__(self, features: int, classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(layers))  # epsilon of the paper
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(width if layer else features, width), nn.ReLU(),
                          nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())
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


def gin(features: int, classes: int, width: int = 32, layers: int = 3) -> nn.Module:
    """Return the network of Xu et al. 2019 (arXiv 1810.00826) for graphs of equal size.

    A layer adds up the vectors of a node, times 1 + epsilon, and of its neighbours, and applies
    an MLP of two layers. The nodes' means after each layer go into one linear head. LayerNorm
    takes the place of BatchNorm, so that a sample's loss does not depend on its batch.

    Args:
        features: The number of features of a node.
        classes: The number of logits.
        width: The width of a node's vector.
        layers: The number of rounds of messages.

    Returns:
        A module from graphs to logits (b, classes). Graphs are float (b, n, n + features): the
        adjacency matrices, and beside each row the features of its node.

    Raises:
        UserError: A size is not a positive integer.
    """
    positive("model 'gin'", features=features, classes=classes, width=width, layers=layers)
    return GIN(features, classes, width, layers)
