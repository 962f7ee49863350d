"""Batches: the data on the device, and the order in which all optimizers meet it."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench_apts.plugins.optimizer_contract import Batch, Sampling
from bench_apts.suites import arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from bench_apts.suites.data import Dataset
    from bench_apts.trial.augmentation import Augmentation


class Conversion:
    """What becomes of stored samples before a network gets them.

    Args:
        inputs: Samples, ``(n, …)``, as ``Resident`` takes them; only shape and dtype matter.
        targets: Likewise.
        mean: Per channel (or one for all) of the scaled inputs, like ``std``.
        std: Standard deviations.
        scale: Factor that brings raw inputs to the range of ``mean`` and ``std``.
        device: Where batches go.
        memory_format: How batches of images lie in memory.
    """

    def __init__(
        self, inputs: np.ndarray, targets: np.ndarray, mean: tuple[float, ...],
        std: tuple[float, ...], scale: float, device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        shape = (-1, *[1] * (inputs.ndim - 2)) if len(mean) > 1 else (-1,)
        spread = torch.tensor(std, dtype=torch.float32, device=device).reshape(shape)
        self.device = device
        self._memory_format = memory_format
        self._scaled = arrays.scaled(inputs)
        self._inputs, self._targets = inputs.dtype, targets.dtype
        self._factor = scale / spread
        self.black = -torch.tensor(mean, device=device).reshape(shape) / spread

    @classmethod
    def of(
        cls, dataset: Dataset, inputs: np.ndarray, targets: np.ndarray, device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Conversion:
        """Return the conversion of samples like ``inputs`` and ``targets`` of a data set."""
        return cls(inputs, targets, dataset.mean, dataset.std, dataset.scale, device,
                   memory_format)

    def batch(self, inputs: Any, targets: torch.Tensor) -> Batch:
        """Return a batch of samples that lie on the device as ``stored`` returns them."""
        targets = _widened(targets, self._targets)
        if self._inputs.names:
            return Batch({name: _widened(inputs[name], self._inputs[name].base)
                          for name in self._inputs.names}, targets)
        if not self._scaled:
            return Batch(_widened(inputs, self._inputs), targets)
        inputs = inputs.to(torch.float32, memory_format=self._memory_format)
        inputs.mul_(self._factor).add_(self.black)
        return Batch(inputs, targets)


def stored(array: np.ndarray) -> Any:
    """Return an array as a tensor, one with fields as a dictionary of tensors.

    uint16, of which torch knows little, has its bits kept as int16.
    """
    if array.dtype.names:
        # Of a single sample a view counts as contiguous, whatever its strides; torch refuses them.
        return {name: stored(array[name].copy()) for name in array.dtype.names}
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)


def _widened(values: torch.Tensor, kind: np.dtype[Any]) -> torch.Tensor:
    """Return stored numbers as float32, bool or int64."""
    if kind.kind == "f":
        return values.to(torch.float32)
    if kind.kind == "b":
        return values.to(torch.bool)
    values = values.to(torch.int64)
    return values & 0xFFFF if kind == np.uint16 else values


class Resident:
    """One split of a data set, kept on the device as it was decoded, normalised batch by batch.

    Args:
        inputs: ``(n, …)``, uint8 images with channels first, floats, or other integers, which
            are not normalised; or an array with fields, ``(n,)``, of which nothing is.
        targets: ``(n, …)`` integers or floats.
        conversion: Makes batches of what is stored.
        augmentation: Changes the training images.
    """

    most = 1_000
    """Largest evaluation batch of one rank."""

    def __init__(
        self, inputs: np.ndarray, targets: np.ndarray, conversion: Conversion,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._conversion, self._augmentation = conversion, augmentation
        found, device = stored(inputs), conversion.device
        self.inputs = ({name: tensor.to(device) for name, tensor in found.items()}
                       if isinstance(found, dict) else found.to(device))
        self.targets: torch.Tensor = stored(targets).to(device)

    @property
    def numbered(self) -> bool:
        """Whether ``draw`` takes indices with the numbers of their epochs (``Order.slices``)."""
        return self._augmentation is not None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: torch.Tensor) -> Batch:
        """Return the samples ``indices`` (int64 on the device), as they are.

        Inputs are normalised float32, or int64; targets are float32 or int64.
        """
        inputs = ({name: tensor.index_select(0, indices) for name, tensor in self.inputs.items()}
                  if isinstance(self.inputs, dict) else self.inputs.index_select(0, indices))
        return self._conversion.batch(inputs, self.targets.index_select(0, indices))

    def sweep(self, chunks: Iterable[torch.Tensor]) -> Iterator[Batch]:
        """Yield the samples of each tensor of indices, for an evaluation."""
        return (self.take(indices.to(self.targets.device)) for indices in chunks)

    def draw(
        self, indices: Iterator[torch.Tensor],
        waiting: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> Iterator[Batch]:
        """Yield training batches of indices on the device.

        Args:
            indices: What ``Order.slices`` yields, ``numbered`` if this split is.
            waiting: Not entered: nothing is waited for.
        """
        augmentation = self._augmentation
        if augmentation is None:
            return map(self.take, indices)
        return (augmentation.changed(self.take(draws % len(self)), draws, len(self))
                for draws in indices)


class Order:
    """The order of the training samples: one permutation per epoch, cut into global batches.

    Epochs follow one another without a gap, so every global batch has the same size. The order
    depends on the seed alone: rank r of N takes the r-th of N equal slices of each global batch,
    and a part of the next ones where the optimizer asks for overlap.

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
        """Return the permutation of epoch ``number``, ``(samples,)`` int64."""
        generator = torch.Generator().manual_seed((self.seed + number) % 2**63)
        return torch.randperm(self.samples, generator=generator)

    def sha256(self) -> str:
        """Return a fingerprint of the first epoch's order."""
        return hashlib.sha256(self.epoch(0).numpy().tobytes()).hexdigest()

    def slices(
        self, batch_size: int, rank: int, ranks: int, sampling: Sampling | None = None,
        device: torch.device | str = "cpu", numbered: bool = False,
    ) -> Iterator[torch.Tensor]:
        """Yield this rank's indices of each global batch, for ever, on ``device``.

        ``(batch_size / ranks,)`` of them, or more where ``sampling`` has them overlap or grow; a
        grown batch is a multiple of ``ranks``, at most as large as an epoch. With ``numbered``
        each index has its epoch's number times ``samples`` added.

        Raises:
            UserError: Slices are to overlap where the samples are divided.
        """
        sampling = sampling or Sampling()
        divided = self.owners is not None
        if divided:
            sampling.require_apart()
        largest = max(batch_size, self.samples // ranks * ranks)
        stride = self.samples if numbered else 0
        pending, number = self._of(rank, 0), 1
        given = 0
        while True:
            # All batches up to the end of an epoch are cut, and copied to the device, at once:
            # a copy at each step would have a GPU finish what is queued first.
            batches = math.ceil((self.samples - given % self.samples) / batch_size)
            share = batch_size // ranks
            width = share if divided else batch_size
            while len(pending) < batches * width:
                pending, number = torch.cat(
                    [pending, self._of(rank, number) + number * stride]), number + 1
            taken = torch.arange(sampling.share(batch_size, ranks))
            own = ((0 if divided else rank * share) + taken) % width
            cut, pending = pending.tensor_split([batches * width])
            yield from cut.view(batches, width).index_select(1, own).to(device).unbind()
            epochs, given = given // self.samples, given + batches * batch_size
            for _ in range(given // self.samples - epochs):
                batch_size = min(largest, int(batch_size * sampling.growth) // ranks * ranks)

    def _of(self, rank: int, number: int) -> torch.Tensor:
        """Return what a rank may draw from in epoch ``number``: its samples, or all."""
        whole = self.epoch(number)
        return whole if self.owners is None else whole[self.owners[whole] == rank]
