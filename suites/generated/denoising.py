"""Images with added noise, and the images as targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.errors import UserError

from ..sizes import at_least
from .draws import Draws, Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple["NDArray[np.float32]", "NDArray[np.float32]"]


def denoising(
    train: NDArray[np.uint8], test: NDArray[np.uint8], noise: float = 0.5, seed: int = 0
) -> Splits:
    """Return noisy images and clean ones.

    Args:
        train: Training images, uint8 (n, channels, height, width).
        test: Test images, likewise.
        noise: The standard deviation of the noise, independent for each pixel; white is 1.
        seed: Determines the noise.

    Returns:
        Inputs and targets float32 (n, channels, height, width): targets in [0, 1], inputs not
        clipped. The metric is the mean square error. ``baseline`` is that of the training images'
        mean image on the test images. The floor is not known; returning the input has noise**2.

    Raises:
        UserError: Images are not uint8, or ``noise`` is negative.
    """
    at_least("data 'denoising'", 0, noise=noise)

    def add(name: str, images: NDArray[np.uint8]) -> Pair:
        if images.dtype != np.uint8:
            raise UserError(f"data 'denoising': the images' dtype is {images.dtype}, not uint8")
        targets = images.astype(np.float32) / np.float32(255)
        noisy = np.empty_like(targets)
        draws = Draws(f"denoising {name}", seed)
        for image, clean in zip(noisy, targets, strict=True):
            image[:] = clean + noise * draws.normals(*clean.shape)
        return noisy, targets

    inputs, targets = add("train", train)
    test_inputs, test_targets = add("test", test)
    mean = targets.mean(axis=0, dtype=np.float64)
    return Splits({"train": (inputs, targets), "test": (test_inputs, test_targets)},
                  None, float(np.square(test_targets - mean).mean()))
