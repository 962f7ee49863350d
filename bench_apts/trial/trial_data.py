"""The splits of a trial in one rank, as they are handed out: on the device, or streamed.

A streamed split is read while training, by worker processes that read ahead. Batches come in the
order in which they are asked for, whatever the number of workers, and what is random in a sample
does not depend on who reads it (suites/returned_data.py).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader

from bench_apts.core.errors import UserError
from bench_apts.core.job import derive_seed
from bench_apts.plugins.optimizer_contract import Sampling
from bench_apts.suites import data, returned_data, user_data
from bench_apts.suites.generated import derived
from bench_apts.tasks.loss_module import model_inputs
from bench_apts.trial.augmentation import Augmentation
from bench_apts.trial.loader import Conversion, Order, Resident, stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from torch.utils.data import Dataset as TorchDataset

    from bench_apts.core.spec import Trial
    from bench_apts.plugins.optimizer_contract import Batch, World
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.returned_data import SampleReader
    from bench_apts.suites.suite_problem import SuiteProblem
    from bench_apts.tasks.task import Task

_MAX_NUMBERS = 2**24
"""Most numbers in an evaluation batch; several batches are read ahead."""

Waiting = Callable[[], AbstractContextManager[None]]


class Streamed:
    """One split, with the methods of ``Resident``.

    Args:
        reader: Reads the samples.
        example: Inputs and targets of some samples, arrays.
        conversion: Makes batches of what is read.
        workers: Processes that read ahead; 0 reads in this process, when a batch is needed.
        augmentation: Changes the training images.
    """

    numbered = True

    def __init__(
        self, reader: SampleReader, example: tuple[np.ndarray, np.ndarray], conversion: Conversion,
        workers: int, augmentation: Augmentation | None = None,
    ) -> None:
        self._reader, self._conversion, self._workers = reader, conversion, workers
        self._augmentation = augmentation
        inputs, targets = example
        self.targets: torch.Tensor = stored(targets)
        size = sum(inputs[name][0].size for name in inputs.dtype.names
                   ) if inputs.dtype.names else inputs[0].size
        self.most: int = max(1, min(Resident.most, _MAX_NUMBERS // max(1, size)))
        self._evaluation: tuple[list[list[int]], DataLoader[Any]] | None = None

    def __len__(self) -> int:
        return len(self._reader)

    def take(self, indices: torch.Tensor) -> Batch:
        """Return the samples ``indices`` as they are in epoch 0, read in this process."""
        return self._batch(_tensors(self._reader[indices.tolist()]))

    def sweep(self, chunks: Iterable[torch.Tensor]) -> Iterator[Batch]:
        """Yield the samples of each tensor of indices as they are in epoch 0.

        The workers stay for the next time, in which the same chunks are asked for.
        """
        listed = [indices.tolist() for indices in chunks]
        if self._evaluation is None or self._evaluation[0] != listed:
            self._evaluation = listed, self._loader(listed, persistent=True)
        return map(self._batch, self._evaluation[1])

    def draw(self, indices: Iterator[torch.Tensor], waiting: Waiting = nullcontext
             ) -> Iterator[Batch]:
        """Yield training batches.

        Args:
            indices: What ``Order.slices`` yields, ``numbered``, on the CPU.
            waiting: Entered while nothing is done but to wait for samples: what was queued on a
                GPU is waited for before.
        """
        if not self._workers:
            for draws in indices:
                self._finish_queued()
                with waiting():
                    found = _tensors(self._reader[draws.tolist()])
                yield self._drawn(found, draws)
            return
        asked: deque[torch.Tensor] = deque()

        def ahead() -> Iterator[list[int]]:  # as far as the loader reads ahead
            for draws in indices:
                asked.append(draws)
                yield draws.tolist()

        with ThreadPoolExecutor(1, "data") as pool:
            with waiting():
                batches = iter(self._loader(ahead()))
            coming: Future[Any] = pool.submit(next, batches, None)
            while True:
                if not coming.done():
                    self._finish_queued()
                with waiting():
                    batch = coming.result()
                if batch is None:
                    return
                coming = pool.submit(next, batches, None)
                yield self._drawn(batch, asked.popleft())

    def _loader(self, draws: Iterable[list[int]], persistent: bool = False) -> DataLoader[Any]:
        workers, dataset = self._workers, cast("TorchDataset[Any]", _ErrorsAsText(self._reader))
        return DataLoader(
            dataset, batch_size=None, sampler=draws, num_workers=workers,
            collate_fn=_tensors, pin_memory=self._conversion.device.type == "cuda",
            multiprocessing_context="fork" if workers else None,
            persistent_workers=persistent and workers > 0,
            generator=torch.Generator())  # the global one is the training's

    def _finish_queued(self) -> None:
        if self._conversion.device.type == "cuda":
            torch.cuda.synchronize()

    def _batch(self, found: Any) -> Batch:
        if isinstance(found, str):
            raise UserError(found)
        inputs, targets = found
        device = self._conversion.device
        inputs = ({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
                  if isinstance(inputs, dict) else inputs.to(device, non_blocking=True))
        return self._conversion.batch(inputs, targets.to(device, non_blocking=True))

    def _drawn(self, found: Any, draws: torch.Tensor) -> Batch:
        batch = self._batch(found)
        if self._augmentation is None:
            return batch
        return self._augmentation.changed(batch, draws.to(self._conversion.device), len(self))


class _ErrorsAsText:
    """A reader that returns what went wrong: what a worker raises arrives with its traceback."""

    def __init__(self, reader: SampleReader) -> None:
        self._reader = reader

    def __getitem__(self, draws: Sequence[int]) -> Any:
        try:
            return self._reader[draws]
        except UserError as error:
            return str(error)


def _tensors(found: Any) -> Any:
    """Return a reader's arrays as tensors, and what went wrong as it is."""
    if isinstance(found, str):
        return found
    inputs, targets = found
    return stored(inputs), stored(targets)


Split = Resident | Streamed


class TrialSplits:
    """The splits of a suite's data, in batches on ``device``.

    Args:
        problem: The suite's.
        dataset: Its data as prepared.
        seed: Of the trial's data.
        device: Where batches go.
        workers: Processes that read streamed data for this rank.

    Raises:
        UserError: A streamed data set is not the one that was prepared.
    """

    def __init__(
        self, problem: SuiteProblem, dataset: Dataset, seed: int, device: torch.device,
        workers: int,
    ) -> None:
        self._dataset, self._suite, self._seed = dataset, problem.suite, seed
        self._device, self._workers = device, workers
        self._sources: dict[str, Any] = self._opened(problem) if dataset.stream else {}
        chosen = problem.suite.data
        division = dataset, chosen.validation, chosen.name, problem.task.contiguous
        train, held = data.divided(*division)
        rows, held_rows = (None, None)
        if dataset.stream and "validation" not in self._sources:
            rows, held_rows = data.rows(*division)
        self.train = self._split("train", train, rows, training=True)
        self.validation = self._split(
            "train" if held_rows is not None else "validation", held, held_rows)

    def test(self) -> Split:
        """Return the test split."""
        return self._split("test", (self._dataset.test_inputs, self._dataset.test_targets))

    def _opened(self, problem: SuiteProblem) -> dict[str, Any]:
        dataset, where = self._dataset, f"suite {self._suite.name}: data"
        assert dataset.stream is not None
        folder = dataset.stream.data_dir
        # The command has downloaded what there is to be.
        found = returned_data.datasets(
            user_data.call(problem, None if folder is None else Path(folder), offline=True), where)
        kept = {part: (getattr(dataset, f"{part}_inputs"), getattr(dataset, f"{part}_targets"))
                for part in found}
        returned_data.require_unchanged(found, dataset.stream.lengths, kept, where)
        return found

    def _split(
        self, part: str, pair: tuple[np.ndarray, np.ndarray], rows: Any = None,
        training: bool = False,
    ) -> Split:
        suite = self._suite
        conversion = Conversion.of(
            self._dataset, *pair, self._device, getattr(torch, suite.memory_format))
        augmentation = (Augmentation(suite.data.augment, self._seed, conversion.black)
                        if suite.data.augment and training else None)
        if self._dataset.stream is None:
            return Resident(*pair, conversion, augmentation)
        reader = returned_data.SampleReader(
            self._sources[part], rows, self._seed if training else 0,
            f"suite {suite.name}: data: {part}")
        return Streamed(reader, pair, conversion, self._workers, augmentation)


class TrialBatches:
    """This rank's minibatches, in the order in which all optimizers meet the data.

    Args:
        splits: The splits.
        task: Says what of a batch the model gets.
        trial: The trial, with its seeds.
        world: This rank's place.
        sampling: How the optimizer's minibatches overlap and grow.
        waiting: Entered while streamed samples are waited for.

    Attributes:
        order: The order of the training samples.
        share: Samples of this rank in each minibatch; None where minibatches grow.
    """

    def __init__(self, splits: TrialSplits, task: Task, trial: Trial, world: World,
                 sampling: Sampling | None, waiting: Waiting) -> None:
        self._train, self._task, self._trial, self._world = splits.train, task, trial, world
        self._sampling, self._waiting = sampling, waiting
        partition = trial.suite.data.partition
        self._owners = (torch.from_numpy(derived.owners(
            self._train.targets.cpu().numpy(), world.size, partition.concentration))
            if partition else None)
        self.order = Order(len(self._train), trial.seeds.data, self._owners)
        sampling = sampling or Sampling()
        self.share = (None if sampling.growth > 1
                      else sampling.share(world.batch_size, world.size))

    def training(self, step: int) -> Iterator[Batch]:
        """Yield this rank's share of each minibatch from a step on."""
        return self._drawn(self.order, self._sampling, step)

    def spare(self, step: int) -> Iterator[Batch]:
        """Yield shares of minibatches in an order that belongs to a step."""
        trial = self._trial
        seed = derive_seed(trial.seeds.data, "evaluation", trial.suite.name, step)
        return self._drawn(Order(len(self._train), seed, self._owners), None, 0)

    def _drawn(self, order: Order, sampling: Sampling | None, start: int) -> Iterator[Batch]:
        world = self._world
        device = "cpu" if isinstance(self._train, Streamed) else world.device
        slices = itertools.islice(order.slices(
            world.batch_size, world.rank, world.size, sampling, device,
            self._train.numbered), start, None)
        return (model_inputs(self._task, batch)
                for batch in self._train.draw(slices, self._waiting))
