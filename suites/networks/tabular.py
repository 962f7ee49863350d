"""Networks for rows of numerical features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench_apts.core.configuration import require_divisor, require_positive
from bench_apts.suites import models
from bench_apts.suites.networks.transformer import blocks, initialise

if TYPE_CHECKING:
    from collections.abc import Sequence


def mlp(features: int, outputs: int, hidden: Sequence[int] = (128, 128), activation: str = "relu",
        norm: str = "none") -> nn.Module:
    """Return ``models.mlp`` for rows: from float (b, features) to (b, outputs)."""
    require_positive("model 'mlp'", features=features, outputs=outputs)
    return models.mlp((features,), outputs, hidden, activation=activation, norm=norm)


class FTTransformer(nn.Module):
    """A transformer over features; ``ft_transformer`` describes the arguments."""

    def __init__(self, features: int, outputs: int, width: int, body: nn.Sequential) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.scales = nn.Parameter(torch.empty(features, width).uniform_(-bound, bound))
        self.shifts = nn.Parameter(torch.empty(features, width).uniform_(-bound, bound))
        self.summary = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.body = body
        self.head = nn.Linear(width, outputs)
        initialise(self.head)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs (b, outputs) for rows (b, features)."""
        tokens = rows[:, :, None] * self.scales + self.shifts
        summary = self.summary.expand(len(rows), 1, -1)
        x = self.body(torch.cat([summary, tokens], dim=1))[:, 0]
        return self.head(x.relu())  # type: ignore[no-any-return]


def ft_transformer(features: int, outputs: int, width: int = 32, depth: int = 2, heads: int = 4
                   ) -> nn.Module:
    """Return the transformer of Gorishniy et al. 2021 (arXiv 2106.11959), somewhat simplified.

    Each feature becomes a token, its value times a learned vector plus another; the output is read
    from one more, learned token. GELU takes the place of ReGLU, and there is no dropout.

    Args:
        features: The number of numerical features.
        outputs: The number of outputs.
        width: The width of a token.
        depth: The number of blocks.
        heads: The number of heads, a divisor of the width.

    Returns:
        A module from float (b, features) to (b, outputs).

    Raises:
        UserError: A size is not a positive integer, or ``heads`` does not divide ``width``.
    """
    require_positive("model 'ft_transformer'", features=features, outputs=outputs, depth=depth)
    require_divisor("model 'ft_transformer'", width=width, heads=heads)
    return FTTransformer(features, outputs, width, blocks(depth, width, heads, causal=False))
