"""The two small problems that an optimizer is examined on: a perceptron and a convolution.

The numbers of elements of the perceptron's parameters are multiples of 12, so that they can be
divided evenly among 2 and 3 ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES, CLASSES, _SIDE, _WIDTH = 240, 12, 4, 12


class Perceptron(nn.Sequential):
    """Two hidden layers; 516 parameters."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(_SIDE * _SIDE, _WIDTH), nn.Tanh(),
            nn.Linear(_WIDTH, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, CLASSES))


class TiedConvolution(nn.Module):
    """A convolution and BatchNorm, a frozen layer, and two layers that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.Linear(_WIDTH, _WIDTH)
        self.first, self.second = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.second.weight = self.first.weight
        self.head = nn.Linear(_WIDTH, CLASSES)
        self.frozen.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(b, 12)``, of images ``(b, 1, 4, 4)``."""
        hidden = torch.tanh(self.norm(self.convolution(images))).flatten(1)
        for layer in (self.frozen, self.first, self.second):
            hidden = hidden + torch.tanh(layer(hidden))
        logits: torch.Tensor = self.head(hidden)
        return logits


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images ``(240, 1, 4, 4)``, noise around one image a class, and their classes."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.arange(SAMPLES) % CLASSES
    centres = torch.randn(CLASSES, 1, _SIDE, _SIDE, generator=draw)
    noise = torch.randn(SAMPLES, 1, _SIDE, _SIDE, generator=draw)
    return centres[targets] + 0.3 * noise, targets


def frozen_parameters(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters that are not to be trained, by name."""
    return ((name, p) for name, p in network.named_parameters() if not p.requires_grad)
