"""Data sets whose samples are read while training: how each is read, and what is kept of them.

What is random in a sample follows from the seed, the epoch and the sample's number: torch's,
Python's and NumPy's global generators are seeded before each sample is read. So it depends neither
on the process that reads it nor on what was read before.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, brief
from bench_apts.core.spec import digest

from . import arrays, returned
from .readers.checks import PARTS, Splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

EXAMPLES = 64
"""Samples of each split that are kept as arrays, spread evenly over it."""


class Reader:
    """Reads samples of one map-style data set; a list of draws gives a batch.

    Args:
        dataset: The data set.
        rows: Numbers of the samples that are drawn; all of them without.
        seed: What is random in samples follows from it.
        where: The split, for messages.
    """

    def __init__(self, dataset: Any, rows: NDArray[np.int64] | None = None, seed: int = 0,
                 where: str = "") -> None:
        self._dataset, self._rows, self._seed, self._where = dataset, rows, seed, where
        self._size = len(dataset) if rows is None else len(rows)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, draws: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the inputs and targets of some samples; random generators stay as they were.

        Args:
            draws: The place of each sample, plus the number of the epoch times ``len(self)``.

        Raises:
            UserError: A sample cannot be read, or is not like the others.
        """
        with _generators_kept():
            samples = [self._sample(*divmod(draw, len(self))) for draw in draws]
        return returned.stacked(samples, self._where)

    def _sample(self, epoch: int, place: int) -> Any:
        row = place if self._rows is None else int(self._rows[place])
        _seed_generators(f"{self._seed} {epoch} {row}")
        try:
            return self._dataset[row]
        except Exception as error:
            raise UserError(f"{self._where}: sample {row} cannot be read: {brief(error)}"
                            ) from error


def _seed_generators(text: str) -> None:
    import torch

    content = hashlib.blake2b(text.encode(), digest_size=16).digest()
    # torch.manual_seed would queue a seed for every GPU, too.
    torch.default_generator.manual_seed(int.from_bytes(content[:8]))
    random.seed(int.from_bytes(content[8:]))
    np.random.seed(int.from_bytes(content[:4]))


@contextmanager
def _generators_kept() -> Iterator[None]:
    import torch

    kept = torch.random.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])


def datasets(result: Any, where: str) -> dict[str, Any]:
    """Return the map-style data sets of the splits that a source returned.

    Raises:
        UserError: There is something else among them, or an empty one.
    """
    found = returned.named(result, where)
    for part, split in found.items():
        if isinstance(split, tuple) or not returned.is_map_style(split):
            raise (UserError(f"{where}: {part} is a pair of arrays; leave out data.stream, which "
                             "is for map-style data sets") if isinstance(split, tuple)
                   else returned.unusable(split, f"{where}: {part}"))
        if not len(split):
            raise UserError(f"{where}: {part} is empty")
    return found


def places(samples: int) -> list[int]:
    """Return the numbers of the samples of a split that are kept."""
    found = np.linspace(0, samples - 1, min(samples, EXAMPLES)).round().astype(np.int64)
    return [int(place) for place in np.unique(found)]


def examples(found: Mapping[str, Any], where: str) -> Splits:
    """Return some samples of each split, as they are with seed 0 in epoch 0.

    Raises:
        UserError: A sample cannot be read, or used.
    """
    return {part: Reader(dataset, where=f"{where}: {part}")[places(len(dataset))]
            for part, dataset in found.items()}


def fingerprint(kept: arrays.Arrays, lengths: Mapping[str, int]) -> str:
    """Return the sha256 over the splits' sizes and the samples that are kept."""
    return digest(["streamed", dict(lengths), arrays.fingerprint(kept)])


def classes(found: Mapping[str, Any], kept: Splits) -> int:
    """Return the number of classes, by what the data set says and the samples show."""
    targets = [pair[1] for pair in kept.values()]
    if targets[0].ndim != 1 or targets[0].dtype.kind not in "iu":
        return 0
    named = getattr(found["train"], "classes", ())
    return max(len(named) if isinstance(named, list | tuple) else 0,
               *(int(array.max()) + 1 for array in targets))


def require_unchanged(found: Mapping[str, Any], lengths: Mapping[str, int],
                      kept: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], where: str) -> None:
    """Check in a rank that a source returns what it returned to the command.

    Compared are the splits' sizes, and the first and the last sample of each.

    Raises:
        UserError: They differ.
    """
    now = {part: len(dataset) for part, dataset in found.items()}
    alike = now == dict(lengths)
    for part in PARTS if alike else ():
        if part in found:
            ends = [0, now[part] - 1]
            read = Reader(found[part], where=f"{where}: {part}")[ends]
            alike &= all(np.array_equal(new, old[[0, -1]])
                         for new, old in zip(read, kept[part], strict=True))
    if not alike:
        raise UserError(f"{where}: a rank gets other samples than the command did; seed what is "
                        "drawn, and do not change the files while a study runs")
