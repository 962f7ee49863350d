"""Random crops, flips and holes for images, on the device that they lie on.

What is drawn for a sample follows from the seed, the epoch and the sample's number alone, by a
counter-based hash: it is the same in every batch, on every rank, for every N, and nothing is left
of it to be restored from a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bench_apts.plugins.optimizer_contract import Batch

if TYPE_CHECKING:
    from bench_apts.core.spec import Augment

DRAWS = ("down", "right", "flip", "row", "column")
"""What is drawn for a sample, in the order of their numbers in the hash."""

_BITS = 31
_STEP, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of SplitMix64 (Steele, Lea and Flood 2014) as signed integers."""


def draws(seed: int, epochs: torch.Tensor, samples: torch.Tensor, which: str) -> torch.Tensor:
    """Return a pseudo-random integer of 31 bits for each sample, ``(b,)`` int64.

    Args:
        seed: From 0 to 2**63 - 1.
        epochs: Number of the epoch of each sample, ``(b,)`` int64.
        samples: Its number in the training split, likewise.
        which: One of ``DRAWS``.
    """
    number = _mixed(epochs + DRAWS.index(which) * 2**48 + _mixed(samples + _mixed_seed(seed)))
    return _shifted(number, 64 - _BITS)


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """Hash integers of 64 bits; sums and products wrap around."""
    values = values + _STEP
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift to the right and fill with zeros; torch repeats the sign."""
    return torch.bitwise_right_shift(values, bits).bitwise_and(2**(64 - bits) - 1)


def _mixed_seed(seed: int) -> int:
    return int(_mixed(torch.tensor(seed)))


class Augmentation:
    """Changes normalised images at random.

    Args:
        chosen: The suite's ``[data] augment``.
        seed: Of the trial's data.
        black: What a black pixel is once it is normalised: one number, or one a channel,
            ``(C, 1, 1)``.
    """

    def __init__(self, chosen: Augment, seed: int, black: torch.Tensor) -> None:
        self.chosen, self.seed, self._black = chosen, seed, black

    def __call__(
        self, images: torch.Tensor, epochs: torch.Tensor, samples: torch.Tensor
    ) -> torch.Tensor:
        """Return the images, moved over a black ground, then mirrored, then with a grey hole.

        Args:
            images: ``(b, C, H, W)`` or ``(b, H, W)``, normalised.
            epochs: ``(b,)`` int64, like ``samples`` on the images' device.
            samples: As in ``draws``.
        """
        whole = images if images.dim() == 4 else images.unsqueeze(1)
        if self.chosen.crop or self.chosen.flip:
            whole = self._moved(whole, epochs, samples)
        if self.chosen.cutout:
            hole = self._hole(whole.shape[2:], epochs, samples)
            whole = whole.masked_fill(hole.unsqueeze(1), 0.0)
        if images.dim() == 3:
            return whole.squeeze(1).contiguous()
        return whole.contiguous(memory_format=torch.contiguous_format if images.is_contiguous()
                                else torch.channels_last)

    def changed(self, batch: Batch, draws: torch.Tensor, size: int) -> Batch:
        """Return a batch with its images changed.

        Args:
            batch: Of normalised images.
            draws: What ``Order.slices`` yields, ``numbered``: epoch times ``size`` plus sample.
            size: Samples of the split.
        """
        return Batch(self(batch.inputs, draws // size, draws % size), batch.targets)

    def _below(self, number: int, which: str, epochs: torch.Tensor, samples: torch.Tensor
               ) -> torch.Tensor:
        """Draw integers from 0 to ``number - 1``, ``(b,)``."""
        return (draws(self.seed, epochs, samples, which) * number) >> _BITS

    def _moved(
        self, images: torch.Tensor, epochs: torch.Tensor, samples: torch.Tensor
    ) -> torch.Tensor:
        crop, (height, width) = self.chosen.crop, images.shape[2:]
        rows, columns = (torch.arange(n, device=images.device).expand(len(images), n)
                         for n in (height, width))
        if self.chosen.flip:
            mirrored = self._below(2, "flip", epochs, samples).bool().unsqueeze(1)
            columns = torch.where(mirrored, columns.flip(1), columns)
        if crop:
            rows, columns = (
                places + (self._below(2 * crop + 1, which, epochs, samples) - crop).unsqueeze(1)
                for places, which in ((rows, "down"), (columns, "right")))
        which = torch.arange(len(images), device=images.device)[:, None, None]
        found = images[which, :, rows.clamp(0, height - 1).unsqueeze(2),
                       columns.clamp(0, width - 1).unsqueeze(1)].permute(0, 3, 1, 2)
        if crop:
            inside = (((rows >= 0) & (rows < height)).unsqueeze(2)
                      & ((columns >= 0) & (columns < width)).unsqueeze(1)).unsqueeze(1)
            found = torch.where(inside, found, self._black)
        return found

    def _hole(self, size: torch.Size, epochs: torch.Tensor, samples: torch.Tensor
              ) -> torch.Tensor:
        """Return which pixels lie in the hole, ``(b, H, W)``; it may reach over the border."""
        side = self.chosen.cutout
        inside = []
        for number, which in zip(size, ("row", "column"), strict=True):
            begin = (self._below(number, which, epochs, samples) - side // 2).unsqueeze(1)
            places = torch.arange(number, device=epochs.device)
            inside.append((places >= begin) & (places < begin + side))
        return inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
