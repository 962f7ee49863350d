"""Transformers: GPT for tokens, attention alone for recall tasks, ViT for images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench_apts.core.configuration import require_divisor, require_natural, require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites import models
from bench_apts.suites.models import ACTIVATIONS, VECTOR_NORMS

if TYPE_CHECKING:
    from collections.abc import Sequence


class SelfAttention(nn.Module):
    """Self-attention of several heads over (b, t, width), causal or not."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended values, (b, t, width)."""
        heads = self.inner(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.outer(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """A pre-norm block: attention, then a feed-forward network ``expansion`` times as wide.

    An expansion of 0 leaves out the feed-forward network.
    """

    def __init__(self, width: int, heads: int, causal: bool, expansion: int = 4,
                 activation: str = "gelu", norm: str = "layer") -> None:
        super().__init__()
        normalise, activate = VECTOR_NORMS[norm], ACTIVATIONS[activation]
        mixing = SelfAttention(width, heads, causal)
        self.attention = nn.Sequential(normalise(width), mixing)
        self.writing = [mixing.outer]  # the layers whose output is added to the residual stream
        self.feedforward = None
        if expansion:
            last = nn.Linear(expansion * width, width)
            self.feedforward = nn.Sequential(
                normalise(width), nn.Linear(width, expansion * width), activate(), last)
            self.writing.append(last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after the block, (b, t, width)."""
        x = x + self.attention(x)
        return x if self.feedforward is None else x + self.feedforward(x)


def blocks(depth: int, width: int, heads: int, causal: bool, expansion: int = 4,
           activation: str = "gelu", norm: str = "layer") -> nn.Sequential:
    """Return ``depth`` blocks and a last normalisation, initialised as in GPT-2.

    Matrices are normal with deviation 0.02, those that write into the residual stream divided by
    the square root of the number of such matrices; biases are 0.

    Raises:
        UserError: ``activation`` or ``norm`` is unknown.
    """
    models.choice("activation of a transformer", activation, ACTIVATIONS)
    normalise = models.choice("norm of a transformer", norm, VECTOR_NORMS)
    layers = [TransformerBlock(width, heads, causal, expansion, activation, norm)
              for _ in range(depth)]
    body = nn.Sequential(*layers, normalise(width))
    initialise(body)
    for layer in layers:
        for linear in layer.writing:
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(depth * len(layer.writing)))
    return body


def initialise(module: nn.Module) -> None:
    """Set linear layers and embeddings as in GPT-2: normal with deviation 0.02, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


class GPT(nn.Module):
    """A causal transformer with learned positions; ``gpt`` describes the arguments."""

    def __init__(self, vocabulary: int, context: int, body: nn.Sequential, width: int, tied: bool
                 ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.body = body
        self.head = nn.Linear(width, vocabulary, bias=False)
        for part in (self.tokens, self.positions, self.head):
            initialise(part)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (b, t, vocabulary) of the next tokens; tokens are integers (b, t)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens.long()) + self.positions(places)
        return self.head(self.body(x))  # type: ignore[no-any-return]


def gpt(vocabulary: int, context: int, layers: int = 2, width: int = 64, heads: int = 4,
        expansion: int = 4, tied: bool = True, activation: str = "gelu", norm: str = "layer"
        ) -> nn.Module:
    """Return a transformer decoder in the manner of GPT-2, without dropout.

    Args:
        vocabulary: The number of tokens.
        context: The most tokens of a sequence.
        layers: The number of blocks.
        width: The width of the residual stream.
        heads: The number of heads, a divisor of the width.
        expansion: The width of the feed-forward networks over ``width``; 0 leaves them out.
        tied: Whether the head has the weights of the embedding.
        activation: Of the feed-forward networks, one of ``models.ACTIVATIONS``.
        norm: ``"layer"`` or ``"rms"``.

    Returns:
        A module from integers (b, t), t up to ``context``, to logits (b, t, vocabulary).

    Raises:
        UserError: A size is not a positive integer, ``heads`` does not divide ``width``, or
            ``activation`` or ``norm`` is unknown.
    """
    require_positive("model 'gpt'", vocabulary=vocabulary, context=context, layers=layers)
    require_divisor("model 'gpt'", width=width, heads=heads)
    require_natural("model 'gpt'", expansion=expansion)
    body = blocks(layers, width, heads, causal=True, expansion=expansion, activation=activation,
                  norm=norm)
    return GPT(vocabulary, context, body, width, tied)


def attention(vocabulary: int, context: int, layers: int = 2, width: int = 64, heads: int = 1
              ) -> nn.Module:
    """Return a GPT of attention alone, with a head of its own, as recall tasks use it.

    Arguments, result and errors are those of ``gpt``.
    """
    return gpt(vocabulary, context, layers, width, heads, expansion=0, tied=False)


class ViT(nn.Module):
    """A transformer over the patches of an image; ``vit`` describes the arguments."""

    roles: ClassVar = {"positions": "embedding"}

    def __init__(self, patches: nn.Conv2d, places: int, body: nn.Sequential, classes: int) -> None:
        super().__init__()
        width = patches.out_channels
        self.patches = patches
        self.positions = nn.Parameter(0.02 * torch.randn(places, width))
        self.body = body
        self.head = nn.Linear(width, classes)
        initialise(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) for images (b, channels, height, width)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.body(x).mean(dim=1))  # type: ignore[no-any-return]


def vit(image_shape: Sequence[int], classes: int, patch: int = 4, width: int = 96, depth: int = 4,
        heads: int = 3, activation: str = "gelu", norm: str = "layer") -> nn.Module:
    """Return a vision transformer with learned positions and mean pooling, without dropout.

    Args:
        image_shape: (channels, height, width) of an image.
        classes: The number of logits.
        patch: The side of a patch, a divisor of height and width.
        width: The width of the residual stream.
        depth: The number of blocks.
        heads: The number of heads, a divisor of the width.
        activation: As of ``gpt``.
        norm: As of ``gpt``.

    Returns:
        A module from float images (b, channels, height, width) to logits (b, classes).

    Raises:
        UserError: A size is not a positive integer or does not divide as it must, or
            ``activation`` or ``norm`` is unknown.
    """
    if len(image_shape) != 3:
        raise UserError(f"model 'vit' takes images (channels, height, width), not {image_shape}")
    channels, rows, columns = image_shape
    require_positive("model 'vit'", channels=channels, classes=classes, depth=depth)
    require_divisor("model 'vit'", height=rows, patch=patch)
    require_divisor("model 'vit'", columns=columns, patch=patch)
    require_divisor("model 'vit'", width=width, heads=heads)
    patches = nn.Conv2d(channels, width, patch, patch)
    places = (rows // patch) * (columns // patch)
    body = blocks(depth, width, heads, causal=False, activation=activation, norm=norm)
    return ViT(patches, places, body, classes)
