"""Batches: the data on the device, and the order in which all optimizers meet it."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench_apts.contract import Batch, Sampling
from bench_apts.suites import arrays

if TYPE_CHECKING:
    from collections.abc import Iterator


class Resident:
    """One split of a data set, kept on the device as it was decoded, normalised batch by batch.

    Args:
        inputs: ``(n, …)``, uint8 images with channels first, floats, or other integers, which
            are not normalised.
        targets: ``(n, …)`` integers or floats.
        mean: Per channel (or one for all) of the scaled inputs.
        std: Standard deviations likewise.
        scale: Factor that brings raw inputs to the range of ``mean`` and ``std``.
        device: Where the split lives.
        memory_format: How the batches of images lie in memory.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scale: float,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.inputs = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        self.targets = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
        shape = (-1, *[1] * (inputs.ndim - 2)) if len(mean) > 1 else (-1,)
        spread = torch.tensor(std, dtype=torch.float32, device=device).reshape(shape)
        self._memory_format = memory_format
        self._scaled = arrays.scaled(inputs)
        self._kind = torch.float32 if targets.dtype.kind == "f" else torch.int64
        self._factor = scale / spread
        self._offset = -torch.tensor(mean, device=device).reshape(shape) / spread

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: torch.Tensor) -> Batch:
        """Return the samples ``indices`` (int64 on the device).

        Inputs are normalised float32, or int64; targets are float32 or int64.
        """
        targets = self.targets.index_select(0, indices).to(self._kind)
        if not self._scaled:
            return Batch(self.inputs.index_select(0, indices).to(torch.int64), targets)
        inputs = self.inputs.index_select(0, indices).to(
            torch.float32, memory_format=self._memory_format)
        inputs.mul_(self._factor).add_(self._offset)
        return Batch(inputs, targets)


class Order:
    """The order of the training samples: one permutation per epoch, cut into global batches.

    Epochs follow one another without a gap, so every global batch has the same size. It depends
    on the seed alone: rank r of N takes the r-th of N equal slices of each global batch, and
    where the optimizer wants it a part of the next ones.

    Where the samples are divided among the ranks, each takes its slices from its own samples
    instead, in the order in which they stand in the permutations.

    Args:
        samples: How many there are.
        seed: Determines the permutations.
        owners: The rank of each sample, ``(samples,)``; None where they are not divided.
    """

    def __init__(self, samples: int, seed: int, owners: torch.Tensor | None = None) -> None:
        self.samples = samples
        self.seed = seed
        self.owners = owners

    def epoch(self, number: int) -> torch.Tensor:
        """Returns the permutation of epoch ``number``, ``(samples,)`` int64."""
        generator = torch.Generator().manual_seed((self.seed + number) % 2**63)
        return torch.randperm(self.samples, generator=generator)

    def sha256(self) -> str:
        """Fingerprint of the first epoch's order."""
        return hashlib.sha256(self.epoch(0).numpy().tobytes()).hexdigest()

    def slices(
        self,
        batch_size: int,
        rank: int,
        ranks: int,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[torch.Tensor]:
        """Yields this rank's indices of each global batch, for ever, on ``device``.

        ``(batch_size / ranks,)`` of them, or more where ``sampling`` has them overlap or grow; a
        grown batch is a multiple of ``ranks``, at most as large as an epoch.

        Raises:
            UserError: Slices are to overlap where the samples are divided.
        """
        sampling = sampling or Sampling()
        divided = self.owners is not None
        if divided:
            sampling.require_apart()
        largest = max(batch_size, self.samples // ranks * ranks)
        pending, number = self._of(rank, 0), 1
        given = 0
        while True:
            # All batches up to the end of an epoch are cut, and copied to the device, at once:
            # a copy at each step would have a GPU finish what is queued first.
            batches = math.ceil((self.samples - given % self.samples) / batch_size)
            share = batch_size // ranks
            width = share if divided else batch_size
            while len(pending) < batches * width:
                pending, number = torch.cat([pending, self._of(rank, number)]), number + 1
            more = min(round(sampling.overlap * share), batch_size - share)
            own = ((0 if divided else rank * share) + torch.arange(share + more)) % width
            cut, pending = pending.tensor_split([batches * width])
            yield from cut.view(batches, width).index_select(1, own).to(device).unbind()
            epochs, given = given // self.samples, given + batches * batch_size
            for _ in range(given // self.samples - epochs):
                batch_size = min(largest, int(batch_size * sampling.growth) // ranks * ranks)

    def _of(self, rank: int, number: int) -> torch.Tensor:
        """Return what a rank may draw from in epoch ``number``: its samples, or all."""
        whole = self.epoch(number)
        return whole if self.owners is None else whole[self.owners[whole] == rank]
