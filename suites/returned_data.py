"""What a user's callable returns for ``[data] source``, as splits of arrays that can be stored.

Of data sets whose samples are read while training a few examples are stored. What is random in a
sample follows from the seed, the epoch and the sample's number: torch's, Python's and NumPy's
global generators are seeded before each sample is read. So it depends neither on the process that
reads it nor on what was read before.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, describe_error
from bench_apts.core.spec import digest
from bench_apts.suites import arrays
from bench_apts.suites.readers.split_checks import PARTS, Splits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


def named_splits(result: Any, where: str) -> dict[str, Any]:
    """Return the splits by name, in the order of ``PARTS``."""
    if isinstance(result, Mapping):
        splits = dict(result)
    elif isinstance(result, tuple | list) and len(result) in (2, 3):
        splits = dict(zip(PARTS if len(result) == 3 else ("train", "test"), result, strict=True))
    else:
        raise UserError(f"{where}: expected (train, test), (train, validation, test) or a "
                        f"dictionary of them, got {_kind(result)}")
    if not {"train", "test"} <= splits.keys() <= set(PARTS):
        raise UserError(f"{where}: expected the splits train, test and if wanted validation, got "
                        f"{', '.join(map(str, splits))}")
    return {part: splits[part] for part in PARTS if part in splits}


def _is_map_style(split: Any) -> bool:
    return (hasattr(split, "__getitem__") and hasattr(split, "__len__")
            and not isinstance(split, str | Mapping | np.ndarray))


def pair(split: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a split's inputs and targets as arrays, reading a map-style data set once."""
    if isinstance(split, tuple) and len(split) == 2:
        return _storable(split[0], f"{where} inputs"), _storable(split[1], f"{where} targets")
    if not _is_map_style(split):
        raise _unusable(split, where)
    return _stacked([split[index] for index in range(len(split))], where)


def _unusable(split: Any, where: str) -> UserError:
    if hasattr(split, "__iter__") and not isinstance(split, str | Mapping | np.ndarray):
        return UserError(f"{where}: {_kind(split)} is an iterable data set, whose samples have no "
                         "fixed order for every number of ranks; give it __len__ and __getitem__ "
                         "(then [data] stream = true reads it while training), or read it into "
                         "arrays")
    return UserError(f"{where}: expected a pair (inputs, targets) or a map-style data set with "
                     f"__len__ and __getitem__, got {_kind(split)}")


def _stacked(samples: Sequence[Any], where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return samples, each a pair of an input and a target, as two arrays."""
    if not samples:
        raise UserError(f"{where} is empty")
    for index, sample in enumerate(samples):
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(f"{where}: sample {index} is {_kind(sample)}; expected a pair (input, "
                            "target)")
    inputs, targets = zip(*samples, strict=True)
    return (_stack(inputs, f"{where} inputs"), _stack(targets, f"{where} targets"))


def _stack(values: Sequence[Any], where: str) -> NDArray[Any]:
    if isinstance(values[0], Mapping):
        unlike = next((value for value in values if not isinstance(value, Mapping)
                       or value.keys() != values[0].keys()), None)
        if unlike is not None:
            raise UserError(f"{where}: samples differ in their names: the first has "
                            f"{', '.join(map(str, values[0]))}, another is {_kind(unlike)}")
        return _joined({name: _stack([value[name] for value in values], f"{where} '{name}'")
                        for name in values[0]}, where)
    try:
        found = [_sample(value) for value in values]
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {error}") from error
    shapes = list(dict.fromkeys(str(array.shape) for array in found))
    if len(shapes) > 1:
        raise UserError(f"{where}: samples differ in shape, {shapes[0]} and {shapes[1]}")
    return _storable(np.stack(found), where)


def _sample(value: Any) -> NDArray[Any]:
    """Return an array; an image of PIL has its channels first then."""
    array = _numpy(value)
    if type(value).__module__.startswith("PIL."):
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return array


def _numpy(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _storable(value: Any, where: str) -> NDArray[Any]:
    """Return an array, tensor or nested lists as float32, uint8, uint16 or int64.

    A dictionary of such becomes an array with fields, in which booleans stay what they are.
    uint16 has at least two dimensions, as tokens do. ``where`` ends with "inputs" or "targets".
    """
    if isinstance(value, Mapping):
        return _joined({name: _storable(one, f"{where} '{name}'") for name, one in value.items()},
                       where)
    try:
        array = _numpy(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {error}") from error
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise UserError(f"{where}: expected an array of numbers, (n, …), got {array.dtype} of the "
                        f"shape {array.shape}")
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind == "b":
        if where.endswith("'"):
            return array
        return array.astype(np.float32 if where.endswith("inputs") else np.int64)
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim > 1):
        return array
    return array.astype(np.int64, copy=False)


def _joined(arrays: dict[str, NDArray[Any]], where: str) -> NDArray[Any]:
    """Return arrays of equal length as one array with fields."""
    wrong = [name for name, array in arrays.items()
             if not isinstance(name, str) or not name.isidentifier() or array.dtype.names]
    if wrong or not arrays:
        raise UserError(f"{where}: a dictionary of inputs holds arrays by the names of the "
                        f"network's arguments, got {_kind(wrong[0]) if wrong else 'none'}")
    if where.endswith("targets"):
        raise UserError(f"{where}: expected one array, got a dictionary of "
                        f"{', '.join(arrays)}; only inputs can be a dictionary")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where}: the arrays of a dictionary differ in length: "
                        + ", ".join(f"{name} {n:,}" for name, n in lengths.items()))
    kinds: Any = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    joined = np.empty(len(next(iter(arrays.values()))), dtype=kinds)
    for name, array in arrays.items():
        joined[name] = array
    return joined


def _kind(value: Any) -> str:
    size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"


EXAMPLES = 64
"""Samples of each split that are kept as arrays, spread evenly over it."""


class SampleReader:
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
        return _stacked(samples, self._where)

    def _sample(self, epoch: int, place: int) -> Any:
        row = place if self._rows is None else int(self._rows[place])
        _seed_generators(f"{self._seed} {epoch} {row}")
        try:
            return self._dataset[row]
        except Exception as error:
            raise UserError(f"{self._where}: sample {row} cannot be read: {describe_error(error)}"
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
    """Return the map-style data sets of the splits that a source returned."""
    found = named_splits(result, where)
    for part, split in found.items():
        if isinstance(split, tuple):
            raise UserError(f"{where}: {part} is a pair of arrays; leave out data.stream, which "
                            "is for map-style data sets")
        if not _is_map_style(split):
            raise _unusable(split, f"{where}: {part}")
        if not len(split):
            raise UserError(f"{where}: {part} is empty")
    return found


def places(samples: int) -> list[int]:
    """Return the numbers of the samples of a split that are kept."""
    found = np.linspace(0, samples - 1, min(samples, EXAMPLES)).round().astype(np.int64)
    return [int(place) for place in np.unique(found)]


def examples(found: Mapping[str, Any], where: str) -> Splits:
    """Return some samples of each split, as they are with seed 0 in epoch 0."""
    return {part: SampleReader(dataset, where=f"{where}: {part}")[places(len(dataset))]
            for part, dataset in found.items()}


def fingerprint(kept: arrays.Arrays, lengths: Mapping[str, int]) -> str:
    """Return the sha256 over the splits' sizes and the samples that are kept."""
    return digest(["streamed", dict(lengths), arrays.fingerprint(kept)])


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
            read = SampleReader(found[part], where=f"{where}: {part}")[ends]
            alike &= all(np.array_equal(new, old[[0, -1]])
                         for new, old in zip(read, kept[part], strict=True))
    if not alike:
        raise UserError(f"{where}: a rank gets other samples than the command did; seed what is "
                        "drawn, and do not change the files while a study runs")
