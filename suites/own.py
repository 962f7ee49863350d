"""The user's data: what a callable of his returns, checked, fingerprinted and cached as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.errors import UserError
from bench_apts.spec import digest

from . import arrays
from .data import Prepared

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bench_apts.problem import Problem
    from bench_apts.spec import Data, Suite

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Scaling:
    """How inputs are normalised, the number of classes, and what the arrays take on the disk."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    classes: int
    array_bytes: int


def prepare(
    suite: Suite, problem: Problem, data_dir: Path | None, cache: Path | None = None,
    offline: bool = False,
) -> Prepared:
    """Call the suite's ``[data] source`` and keep what it returns as arrays in the cache.

    Args:
        suite: The suite.
        problem: Its task and callables.
        data_dir: The user's folder of data, for callables that have such an argument.
        cache: As in ``data.prepare``.
        offline: Whether a download is forbidden, for callables that have such an argument.

    Raises:
        UserError: The data cannot be used, in one line that says why.
    """
    options = dict(suite.data.options or {})
    for name, value in (("data_dir", data_dir), ("offline", offline)):
        if name in problem.parameters("data"):
            options.setdefault(name, value)
    where = f"suite {suite.name}: data"
    found = _arrays(problem.call("data", options), where)
    _check(found, suite, problem, where)
    sha256 = arrays.fingerprint(found)
    scaling = _scaling(found, suite.data, where)
    key = digest([arrays.VERSION, sha256, scaling.mean, scaling.std, scaling.classes])[:12]
    folder = arrays.cache_root(cache) / "arrays" / f"own-{key}"
    meta = arrays.valid(folder)
    if meta is None:
        # Data of this fingerprint was never there: a second call shows whether it comes again.
        again = _arrays(problem.call("data", options), where)
        if arrays.fingerprint(again) != sha256:
            raise UserError(f"{where}: two calls of {suite.data.source} return different splits; "
                            "seed what is drawn, and leave out random transforms")
        meta = arrays.store(folder, scaling, lambda: found, str(suite.data.source))
    return Prepared(suite.data.name, folder, meta["sha256"], str(suite.data.source))


def _arrays(result: Any, where: str) -> arrays.Arrays:
    """Return the arrays of all splits, ``train_inputs`` and so on, in storable dtypes."""
    if isinstance(result, Mapping):
        splits = dict(result)
    elif isinstance(result, tuple | list) and len(result) in (2, 3):
        splits = dict(zip(PARTS if len(result) == 3 else ("train", "test"), result, strict=True))
    else:
        raise UserError(f"{where}: expected (train, test), (train, validation, test) or a "
                        f"dictionary of them, got {_kind(result)}")
    unknown = set(splits) - set(PARTS)
    missing = {"train", "test"} - set(splits)
    if unknown or missing:
        raise UserError(f"{where}: expected the splits train, test and if wanted validation, got "
                        f"{', '.join(map(str, splits))}")
    found: arrays.Arrays = {}
    for part in PARTS:
        if part in splits:
            inputs, targets = _pair(splits[part], f"{where}: {part}")
            found[f"{part}_inputs"] = _storable(inputs, f"{where}: {part} inputs")
            found[f"{part}_targets"] = _storable(targets, f"{where}: {part} targets")
    return found


def _pair(split: Any, where: str) -> tuple[Any, Any]:
    """Return inputs and targets of a split, reading a map-style data set sample by sample."""
    if isinstance(split, tuple) and len(split) == 2:
        return split
    if not (hasattr(split, "__getitem__") and hasattr(split, "__len__")) or isinstance(
            split, str | Mapping | np.ndarray):
        raise UserError(f"{where}: expected a pair (inputs, targets) or a map-style data set with "
                        f"__len__ and __getitem__, got {_kind(split)}; read an iterable data set "
                        "into arrays first")
    inputs, targets = [], []
    for index in range(len(split)):
        sample = split[index]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(f"{where}: sample {index} is {_kind(sample)}; expected a pair (input, "
                            "target)")
        inputs.append(_sample(sample[0]))
        targets.append(_sample(sample[1]))
    for each in (inputs, targets):
        shapes = list(dict.fromkeys(str(array.shape) for array in each))
        if len(shapes) > 1:
            raise UserError(f"{where}: samples differ in shape, {shapes[0]} and {shapes[1]}")
    if not inputs:
        raise UserError(f"{where} is empty")
    return np.stack(inputs), np.stack(targets)


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
    """Return an array as float32, uint8 or int64.

    Raises:
        UserError: It holds something else, or numbers that are not finite.
    """
    try:
        array = _numpy(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {error}") from error
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise UserError(f"{where}: expected an array of numbers, (n, …), got {array.dtype} of the "
                        f"shape {array.shape}")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{where}: {int((~np.isfinite(array)).sum()):,} numbers are NaN or "
                            "infinite; remove or fill them in")
        return array
    is_input = where.endswith("inputs")
    if array.dtype.kind == "b":
        return array.astype(np.float32 if is_input else np.int64)
    if array.dtype == np.uint8:
        return array
    return array.astype(np.int64)


def _check(found: arrays.Arrays, suite: Suite, problem: Problem, where: str) -> None:
    """Check that splits fit together, and the task.

    Raises:
        UserError: They do not.
    """
    own = "validation_inputs" in found
    if own and suite.data.validation:
        raise UserError(f"{where}: there is a validation split; leave out data.validation")
    if not own and not suite.data.validation:
        raise UserError(f"{where}: there is no validation split; say in data.validation how many "
                        "training samples validate")
    for part in PARTS:
        if f"{part}_inputs" not in found:
            continue
        inputs, targets = found[f"{part}_inputs"], found[f"{part}_targets"]
        if len(inputs) != len(targets):
            raise UserError(f"{where}: {part} has {len(inputs):,} inputs and {len(targets):,} "
                            "targets")
        if not len(inputs):
            raise UserError(f"{where}: {part} is empty")
        for name in ("inputs", "targets"):
            first, array = found[f"train_{name}"], found[f"{part}_{name}"]
            if (first.shape[1:], first.dtype) != (array.shape[1:], array.dtype):
                raise UserError(f"{where}: {part} {name} are {array.dtype} {array.shape[1:]}, "
                                f"those of train {first.dtype} {first.shape[1:]}")
        try:
            problem.task.check(inputs, targets)
        except Exception as error:
            raise UserError(f"{where}: {part}: {error}") from error


def _scaling(found: arrays.Arrays, given: Data, where: str) -> Scaling:
    """Return how inputs are normalised: as the suite says, or by the training split."""
    inputs, targets = found["train_inputs"], found["train_targets"]
    size = sum(array.nbytes for array in found.values()) + 2**20
    classes = (1 + max(int(found[name].max()) for name in found if name.endswith("targets"))
               if targets.ndim == 1 and targets.dtype.kind in "iu" else 0)
    if not arrays.scaled(inputs):
        if given.mean is not given.std:
            raise UserError(f"{where}: inputs of whole numbers are not normalised; leave out "
                            "data.mean and data.std")
        return Scaling((0.0,), (1.0,), 1.0, classes, size)
    scale = 1 / 255 if inputs.dtype == np.uint8 else 1.0
    mean, std = _moments(inputs, scale)
    chosen = [(float(value),) if isinstance(value, int | float) else value or computed
              for value, computed in ((given.mean, mean), (given.std, std))]
    for name, value in zip(("mean", "std"), chosen, strict=True):
        if len(value) not in (1, len(mean)):
            raise UserError(f"{where}: data.{name} has {len(value)} numbers; expected 1 or "
                            f"{len(mean)}")
    if min(chosen[1]) <= 0:
        raise UserError(f"{where}: data.std must be positive")
    # One form for both, as they are applied together.
    mean, std = (value * (max(map(len, chosen)) // len(value)) for value in chosen)
    return Scaling(mean, std, scale, classes, size)


def _moments(inputs: NDArray[Any], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of features ``(n, f)``, or of images' channels.

    Other shapes have one of each. A deviation of 0 becomes 1.
    """
    axes = ((0,) if inputs.ndim == 2 else (0, 2, 3) if inputs.ndim == 4
            else tuple(range(inputs.ndim)))
    total: Any = 0.0
    squares: Any = 0.0
    parts = np.array_split(inputs, math.ceil(inputs.size / 2**24))
    count = inputs.size / np.prod([n for axis, n in enumerate(inputs.shape) if axis not in axes])
    for part in parts:
        total = total + part.sum(axis=axes, dtype=np.float64)
    mean = total / count
    broad = mean if inputs.ndim != 4 else mean[:, None, None]
    for part in parts:
        squares = squares + np.square(part - broad).sum(axis=axes, dtype=np.float64)
    std = np.sqrt(squares / count)
    std = np.where(std > 1e-12 * (1 + np.abs(mean)), std, 1 / scale)
    scaled = (np.atleast_1d(value * scale).tolist() for value in (mean, std))
    return tuple(next(scaled)), tuple(next(scaled))


def _kind(value: Any) -> str:
    size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"
