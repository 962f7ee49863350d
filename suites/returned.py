"""What a user's callable returns for ``[data] source``, as splits of arrays that can be stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

from .readers.checks import PARTS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def named(result: Any, where: str) -> dict[str, Any]:
    """Return the splits by name, in the order of ``PARTS``.

    Raises:
        UserError: There are other ones, or too few.
    """
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


def is_map_style(split: Any) -> bool:
    """Say whether a split is a data set with ``__len__`` and ``__getitem__``."""
    return (hasattr(split, "__getitem__") and hasattr(split, "__len__")
            and not isinstance(split, str | Mapping | np.ndarray))


def pair(split: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a split's inputs and targets as arrays, reading a map-style data set once.

    Raises:
        UserError: It is neither a pair nor a map-style data set, or holds other things.
    """
    if isinstance(split, tuple) and len(split) == 2:
        return storable(split[0], f"{where} inputs"), storable(split[1], f"{where} targets")
    if not is_map_style(split):
        raise unusable(split, where)
    return stacked([split[index] for index in range(len(split))], where)


def unusable(split: Any, where: str) -> UserError:
    """Say what to do about a split that is no pair and no map-style data set."""
    if hasattr(split, "__iter__") and not isinstance(split, str | Mapping | np.ndarray):
        return UserError(f"{where}: {_kind(split)} is an iterable data set, whose samples have no "
                         "fixed order for every number of ranks; give it __len__ and __getitem__ "
                         "(then [data] stream = true reads it while training), or read it into "
                         "arrays")
    return UserError(f"{where}: expected a pair (inputs, targets) or a map-style data set with "
                     f"__len__ and __getitem__, got {_kind(split)}")


def stacked(samples: Sequence[Any], where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return samples, each a pair of an input and a target, as two arrays.

    Raises:
        UserError: There are none, or they are no pairs or of unlike shapes.
    """
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
    return storable(np.stack(found), where)


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


def storable(value: Any, where: str) -> NDArray[Any]:
    """Return an array as float32, uint8, uint16 or int64; of a dictionary, one with fields.

    Of a dictionary booleans stay what they are. uint16 has at least two dimensions, as tokens do.

    Args:
        value: An array, a tensor, nested lists, or a dictionary of such, samples first.
        where: What it is, for messages; ends with "inputs" or "targets".

    Raises:
        UserError: It holds something else than numbers.
    """
    if isinstance(value, Mapping):
        return _joined({name: storable(one, f"{where} '{name}'") for name, one in value.items()},
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
