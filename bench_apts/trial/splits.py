"""The splits of a trial in one rank, as they are handed out: on the device, or streamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.suites import data, own, streamed
from bench_apts.trial.loader import Conversion, Resident

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench_apts.suites.data import Dataset
    from bench_apts.suites.problem import Problem
    from bench_apts.trial.streaming import Streamed

    Split = Resident | Streamed


class Splits:
    """The splits of a suite's data.

    Args:
        problem: The suite's.
        dataset: Its data as prepared.
        seed: Of the trial's data.
        device: Where batches go.
        memory_format: How batches of images lie in memory.
        workers: Processes that read streamed data for this rank.

    Raises:
        UserError: A streamed data set is not the one that was prepared.
    """

    def __init__(
        self, problem: Problem, dataset: Dataset, seed: int, device: torch.device,
        memory_format: torch.memory_format, workers: int,
    ) -> None:
        self._dataset, self._suite, self._seed = dataset, problem.suite, seed
        self._device, self._memory_format, self._workers = device, memory_format, workers
        self._sources: dict[str, Any] = self._opened(problem) if dataset.stream else {}
        train, held = data.divided(
            dataset, problem.suite.data.validation, problem.suite.data.name,
            problem.task.contiguous)
        rows, held_rows = (None, None)
        if dataset.stream and "validation" not in self._sources:
            rows, held_rows = data.rows(
                dataset, problem.suite.data.validation, problem.suite.data.name,
                problem.task.contiguous)
        self.train = self._split("train", train, rows, training=True)
        self.validation = self._split(
            "train" if held_rows is not None else "validation", held, held_rows)

    def test(self) -> Split:
        """Return the test split."""
        return self._split("test", (self._dataset.test_inputs, self._dataset.test_targets))

    def _opened(self, problem: Problem) -> dict[str, Any]:
        dataset, where = self._dataset, f"suite {self._suite.name}: data"
        assert dataset.stream is not None
        folder = dataset.stream.data_dir
        # The command has downloaded what there is to be.
        found = streamed.datasets(
            own.call(problem, None if folder is None else Path(folder), offline=True), where)
        kept = {part: (getattr(dataset, f"{part}_inputs"), getattr(dataset, f"{part}_targets"))
                for part in found}
        streamed.require_unchanged(found, dataset.stream.lengths, kept, where)
        return found

    def _split(
        self, part: str, pair: tuple[np.ndarray, np.ndarray], rows: Any = None,
        training: bool = False,
    ) -> Split:
        dataset = self._dataset
        augment = (self._suite.data.augment or None) if training else None
        if dataset.stream is None:
            return Resident(*pair, dataset.mean, dataset.std, dataset.scale, self._device,
                            self._memory_format, augment, self._seed)
        from bench_apts.trial.streaming import Streamed

        reader = streamed.Reader(self._sources[part], rows, self._seed if training else 0,
                                 f"suite {self._suite.name}: data: {part}")
        conversion = Conversion(*pair, dataset.mean, dataset.std, dataset.scale, self._device,
                                self._memory_format)
        return Streamed(reader, pair, conversion, self._workers, augment, self._seed)
