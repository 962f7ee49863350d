"""The transformer of modded-nanogpt's optimization track, which fixes all but the optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench_apts.core.configuration import require_divisor, require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites.models import SquaredReLU

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOWEST = 1_024
"""Positions after which the slowest pair of a head has turned by one radian."""

ATTENTION_SCALE = 0.12
"""Factor on the products of queries and keys, which are normalised to a length of sqrt(head)."""

LARGEST = 15.0
"""Bound that logits approach."""


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021) of the first half of a head's pairs; the rest stands."""

    frequencies: Tensor

    def __init__(self, head: int) -> None:
        super().__init__()
        turning = torch.logspace(0, -math.log10(SLOWEST), head // 4)
        self.register_buffer("frequencies", torch.cat([turning, torch.zeros(head // 4)]),
                             persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn the pairs (i, i + head/2) of queries or keys, (b, heads, t, head)."""
        places = torch.arange(x.shape[-2], dtype=torch.float32, device=x.device)
        angles = torch.outer(places, self.frequencies)
        cosine, sine = angles.cos(), angles.sin()
        left, right = x.float().chunk(2, dim=-1)
        turned = torch.cat([left * cosine + right * sine, right * cosine - left * sine], dim=-1)
        return turned.to(x.dtype)


class NanoGPTAttention(nn.Module):
    """Causal self-attention whose queries and keys are normalised and turned."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.outer = (
            nn.Linear(width, width) for _ in range(4))
        self.rotary = Rotary(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended values, (b, t, width)."""
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for layer in (self.query, self.key, self.value))
        query, key = (self.rotary(functional.rms_norm(each, each.shape[-1:]))
                      for each in (query, key))
        mixed = functional.scaled_dot_product_attention(
            query, key, value.to(query.dtype), is_causal=True, scale=ATTENTION_SCALE)
        return cast("Tensor", self.outer(mixed.transpose(1, 2).flatten(2)))


class NanoGPTBlock(nn.Module):
    """A pre-norm block: attention, then a feed-forward network four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.RMSNorm(width), NanoGPTAttention(width, heads))
        self.feedforward = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, 4 * width),
                                         SquaredReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the block, (b, t, width)."""
        x = x + self.attention(x)
        return cast("Tensor", x + self.feedforward(x))

    def writing(self) -> Iterator[nn.Linear]:
        """Yield the layers whose output is added to the residual stream."""
        yield cast("nn.Linear", self.attention[1].outer)
        yield cast("nn.Linear", self.feedforward[3])


class NanoGPT(nn.Module):
    """The whole network; ``nanogpt`` describes the arguments."""

    def __init__(self, vocabulary: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(NanoGPTBlock(width, heads) for _ in range(layers)))
        self.before, self.after = nn.RMSNorm(width), nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=math.sqrt(0.33 / part.in_features))
                nn.init.zeros_(part.bias)
        for block in self.blocks:
            for linear in cast("NanoGPTBlock", block).writing():
                nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (b, t, vocabulary) of the next tokens; tokens are integers (b, t)."""
        x = self.blocks(self.before(self.tokens(tokens.long())))
        logits = self.head(self.after(x)).float()
        return cast("Tensor", LARGEST * logits * (logits.square() + LARGEST**2).rsqrt())


def nanogpt(vocabulary: int = 50_304, layers: int = 12, width: int = 768, heads: int = 6
            ) -> nn.Module:
    """Return the decoder of modded-nanogpt's optimization track.

    RMSNorm, rotary positions, normalised queries and keys, squared ReLU and an untied head whose
    logits are bounded. The head and all that writes into the residual stream begin at zero, so
    that the untrained network gives each token the same probability.

    Args:
        vocabulary: The number of tokens; GPT-2's 50,257, rounded up to a multiple of 128.
        layers: The number of blocks.
        width: The width of the residual stream.
        heads: The number of heads, a divisor of the width, each a multiple of 4 wide.

    Returns:
        A module from integers (b, t) to float32 logits (b, t, vocabulary).

    Raises:
        UserError: A size is not a positive integer, or does not divide as it must.
    """
    require_positive("model 'nanogpt'", vocabulary=vocabulary, layers=layers)
    require_divisor("model 'nanogpt'", width=width, heads=heads)
    if width // heads % 4:
        raise UserError(f"model 'nanogpt': width / heads = {width // heads} must be a multiple "
                        "of 4")
    return NanoGPT(vocabulary, layers, width, heads)
