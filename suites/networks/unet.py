"""A U-Net for images, as used for denoising."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench_apts.core.configuration import require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites.models import ACTIVATIONS, NORMS, choice

if TYPE_CHECKING:
    from collections.abc import Callable


class UNet(nn.Module):
    """A U-Net that adds its output to its input; ``unet`` describes the arguments."""

    def __init__(self, channels: int, widths: list[int], activate: Callable[[], nn.Module],
                 normalise: Callable[[int], nn.Module]) -> None:
        super().__init__()

        def convolutions(before: int, after: int) -> nn.Module:
            """Return two 3x3 convolutions that keep the resolution."""
            return nn.Sequential(*(
                layer for inputs in (before, after) for layer in (
                    nn.Conv2d(inputs, after, 3, padding=1, bias=False), normalise(after),
                    activate())))

        self.down = nn.ModuleList(itertools.starmap(
            convolutions, itertools.pairwise([channels, *widths])))
        upward = list(itertools.pairwise(widths[::-1]))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(n, m, 2, 2) for n, m in upward)
        self.up = nn.ModuleList(convolutions(2 * m, m) for _, m in upward)
        self.last = nn.Conv2d(widths[0], channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the same shape (b, channels, height, width)."""
        halvings = len(self.up)
        if images.shape[-1] % 2**halvings or images.shape[-2] % 2**halvings:
            raise UserError(f"model 'unet': height and width of the images, "
                            f"{tuple(images.shape[-2:])}, must be multiples of {2**halvings}")
        x, passed = images, []
        for number, convolutions in enumerate(self.down):
            x = convolutions(nn.functional.max_pool2d(x, 2) if number else x)
            passed.append(x)
        for enlarge, convolutions, left in zip(self.enlarge, self.up, passed[-2::-1],
                                               strict=True):
            x = convolutions(torch.cat([enlarge(x), left], dim=1))
        return images + self.last(x)  # type: ignore[no-any-return]


def unet(channels: int, width: int = 16, depth: int = 2, activation: str = "silu",
         norm: str = "group") -> nn.Module:
    """Return a U-Net (Ronneberger et al. 2015) with GroupNorm and SiLU by default.

    Args:
        channels: The number of channels of the images.
        width: The number of channels at full resolution; each halving doubles it.
        depth: How many times the resolution is halved.
        activation: One of ``models.ACTIVATIONS``.
        norm: One of ``models.NORMS``.

    Returns:
        A module from float (b, channels, height, width) to the same shape; height and width must
        be multiples of ``2**depth``. With one channel, width 16 and depth 2 it has 117,073
        parameters.

    Raises:
        UserError: A size is not a positive integer, or an option is unknown; later, if images do
            not fit.
    """
    require_positive("model 'unet'", channels=channels, width=width, depth=depth)
    return UNet(channels, [width << level for level in range(depth + 1)],
                choice("activation of model 'unet'", activation, ACTIVATIONS),
                choice("norm of model 'unet'", norm, NORMS))
