"""The networks that suites name, each built for an input shape and a number of classes.

They return logits, unless a suite asks for more. Weights come from torch's global generator,
which the caller has seeded.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from bench_apts.core.errors import UserError, unknown

Shape = tuple[int, ...]
Choice = TypeVar("Choice")


def build(name: str, options: Mapping[str, Any], input_shape: Shape, classes: int) -> nn.Module:
    """Build the model ``name``.

    Args:
        name: One of ``MODELS``.
        options: Keyword arguments of the model, as written in the suite.
        input_shape: Shape of one sample: ``(features,)`` or ``(channels, height, width)``.
        classes: The number of logits.

    Returns:
        A module from float ``(n, *input_shape)`` to logits ``(n, classes)``, on the CPU.

    Raises:
        UserError: The name, an option or its value is unknown, or the inputs do not fit.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    builder = MODELS[name]
    known = list(inspect.signature(builder).parameters)[2:]
    for option in options:
        if option not in known:
            raise unknown(f"option of model '{name}'", option, known)
    return builder(input_shape, classes, **options)


def count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


OUTPUTS: dict[str, tuple[Callable[[], nn.Module], ...]] = {
    "logits": (),
    "log-softmax": (lambda: nn.LogSoftmax(dim=1),),
    "sigmoid-log-softmax": (nn.Sigmoid, lambda: nn.LogSoftmax(dim=1)),
}
"""What may follow the last layer. Cross-entropy of log-probabilities is that of the logits; with
the sigmoid before them ten classes cannot get below log(1 + 9/e) = 1.4612."""


class SquaredReLU(nn.Module):
    """The square of ReLU (So et al. 2021, arXiv 2109.08668)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return max(x, 0) squared."""
        return x.relu().square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU,
    "relu-squared": SquaredReLU}

VECTOR_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm, "rms": lambda width: nn.RMSNorm(width, eps=1e-6)}
"""Normalisations of the last dimension, of ``width`` numbers."""

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(channels, 8), channels),
    "none": lambda channels: nn.Identity(),
}
"""Normalisations of ``channels`` channels, with as many parameters each but for ``none``. A
GroupNorm of eight groups takes its statistics from one sample and keeps none."""


def mlp(input_shape: Shape, classes: int, hidden: Sequence[int] = (64, 32), output: str = "logits",
        activation: str = "relu", norm: str = "none") -> nn.Module:
    """Fully connected layers of widths ``hidden``, each with ``activation``, then ``output``.

    With a ``norm`` each layer is normalised before its activation.
    """
    ends = choice("output of model 'mlp'", output, OUTPUTS)
    activate = choice("activation of model 'mlp'", activation, ACTIVATIONS)
    normalise = choice("norm of model 'mlp'", norm, {"none": None, **VECTOR_NORMS})
    if not isinstance(hidden, Sequence) or not all(
            type(width) is int and width > 0 for width in hidden):
        raise UserError(f"model 'mlp': hidden = {hidden!r} is not a list of positive integers")
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), *([normalise(fan_out)] if normalise else []),
                   activate()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes),
                         *(make() for make in ends))


def cnn_small(input_shape: Shape, classes: int, activation: str = "relu") -> nn.Module:
    """Convolutions 5x5 of 8 and 16 channels, each with 2x2 max-pooling, then 64 units."""
    activate = choice("activation of model 'cnn-small'", activation, ACTIVATIONS)
    # Pooling first gives the same values as ReLU first, on a quarter of the elements.
    return _classifier("cnn-small", input_shape, classes, activate, [
        nn.Conv2d(_channels("cnn-small", input_shape), 8, 5), nn.MaxPool2d(2), activate(),
        nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), activate(),
    ])


def cnn(input_shape: Shape, classes: int, activation: str = "relu") -> nn.Module:
    """Convolutions to 24 (5x5, stride 2), 48 (3x3, stride 2) and 64 channels, then 64 units."""
    activate = choice("activation of model 'cnn'", activation, ACTIVATIONS)
    return _classifier("cnn", input_shape, classes, activate, [
        nn.Conv2d(_channels("cnn", input_shape), 24, 5, stride=2, padding=2), activate(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), activate(),
        nn.Conv2d(48, 64, 3, padding=1), activate(), nn.AvgPool2d(2),
    ])


def resnet(input_shape: Shape, classes: int, blocks: Sequence[int] = (1, 1, 1), width: int = 16,
           stride: int = 1, norm: str = "batch", activation: str = "relu") -> nn.Module:
    """The residual network for small images of He et al., arXiv 1512.03385, section 4.2.

    A 3x3 stem of the given stride, then stages of ``blocks`` blocks of two 3x3 convolutions, each
    followed by the normalisation ``norm``; each stage but the first halves the resolution and
    doubles the width. Where shapes change, the shortcut is a 1x1 convolution. (1, 1, 1) is
    ResNet-8, (3, 3, 3) ResNet-20. ``activation`` takes the place of ReLU.
    """
    from torchvision.models.resnet import BasicBlock  # slow to import, and rarely used

    sizes = [*blocks, width, stride] if isinstance(blocks, Sequence) and blocks else [0]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"model 'resnet': blocks = {blocks!r}, width = {width!r} and stride = "
                        f"{stride!r} must be a list and two numbers, all positive integers")
    if len(blocks) > 16 or sum(blocks) > 1_000:
        raise UserError(f"model 'resnet': {len(blocks):,} stages of {sum(blocks):,} blocks; at "
                        "most 16 and 1,000")
    normalise = choice("norm of model 'resnet'", norm, NORMS)
    activate = choice("activation of model 'resnet'", activation, ACTIVATIONS)
    other = activation != "relu"  # torchvision's blocks have it in place, which saves memory
    channels = _channels("resnet", input_shape)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                               normalise(width), activate() if other else nn.ReLU(inplace=True)]
    before = width
    for stage, depth in enumerate(blocks):
        after = width << stage
        for number in range(depth):
            step = 2 if stage and not number else 1
            shortcut = None
            if before != after:
                shortcut = nn.Sequential(
                    nn.Conv2d(before, after, 1, step, bias=False), normalise(after))
            block = BasicBlock(before, after, step, shortcut, norm_layer=normalise)
            if other:
                block.relu = activate()
            layers.append(block)
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(before, classes))


def resnet18(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 of torchvision with a 3x3 stem and no pooling, as usual for 32x32 images."""
    from torchvision.models import resnet18 as original  # slow to import, and rarely used

    model: nn.Module = original(num_classes=classes)
    stem = nn.Conv2d(_channels("resnet18", input_shape), 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp, "cnn-small": cnn_small, "cnn": cnn, "resnet": resnet, "resnet18": resnet18}


def choice(kind: str, name: object, known: Mapping[str, Choice]) -> Choice:
    """Return what ``known`` has under a name, which may be any value that TOML can hold."""
    if not isinstance(name, str) or name not in known:
        raise unknown(kind, str(name), known)
    return known[name]


def _channels(name: str, input_shape: Shape) -> int:
    if len(input_shape) != 3:
        raise UserError(f"model '{name}' takes images (channels, height, width), and these "
                        f"inputs have the shape {input_shape}; use the model 'mlp'")
    return input_shape[0]


def _classifier(name: str, input_shape: Shape, classes: int, activate: Callable[[], nn.Module],
                features: list[nn.Module]) -> nn.Module:
    """Append the two linear layers, whose width depends on what the features leave over."""
    body = nn.Sequential(*features, nn.Flatten())
    try:
        with torch.no_grad():
            width = body(torch.zeros(1, *input_shape)).shape[1]
    except RuntimeError as error:
        raise UserError(f"model '{name}' cannot take inputs of the shape {input_shape}: they "
                        "are too small for its convolutions") from error
    return nn.Sequential(*body, nn.Linear(width, 64), activate(), nn.Linear(64, classes))
