"""What a suite's ``[data] source`` returns: checked, fingerprinted and cached as arrays."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench_apts.core.errors import UserError
from bench_apts.core.spec import digest
from bench_apts.suites import arrays, returned_data
from bench_apts.suites.arrays import InputScaling
from bench_apts.suites.data import Prepared, Stream
from bench_apts.suites.readers.split_checks import fitting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench_apts.core.spec import Data, Suite
    from bench_apts.suites.readers.split_checks import Splits
    from bench_apts.suites.suite_problem import SuiteProblem

def prepare(suite: Suite, problem: SuiteProblem, data_dir: Path | None, cache: Path | None = None,
            offline: bool = False) -> Prepared:
    """Call the suite's ``[data] source`` and keep what it returns as arrays in the cache.

    Of data that is streamed only some samples are kept.

    Args:
        suite: The suite.
        problem: Its task and callables.
        data_dir: The user's folder of data, for callables that have such an argument.
        cache: As in ``data.prepare``.
        offline: Whether a download is forbidden; as ``data_dir``.

    Raises:
        UserError: The data cannot be used, in one line that says why.
    """
    where, streamed = f"suite {suite.name}: data", bool(suite.data.stream)
    returned = _returned(problem, data_dir, offline, cache, where)
    splits = _checked(returned.splits, suite, problem, where)
    kept = arrays.by_name(splits)
    scaling = _scaling(kept, suite.data, where, _class_count(splits, returned.class_names),
                       streamed)
    parts = [arrays.VERSION, returned.sha256, scaling.mean, scaling.std, scaling.classes]
    stream = Stream(returned.lengths, None if data_dir is None else str(data_dir.absolute()))
    key = digest([*parts, stream.data_dir] if streamed else parts)[:12]
    folder = arrays.cache_root(cache) / "arrays" / f"own-{key}"
    meta = arrays.valid(folder)
    if meta is None:
        # Data of this fingerprint was never there: a second call shows whether it comes again.
        if _returned(problem, data_dir, offline, cache, where).sha256 != returned.sha256:
            remedy = ("and draw from no generator but torch's, Python's and NumPy's global ones"
                      if streamed else
                      "and leave out random transforms, or set [data] stream = true for them")
            raise UserError(f"{where}: two calls of {suite.data.source} return different splits; "
                            f"seed what is drawn, {remedy}")
        meta = arrays.store(folder, scaling, lambda _: (kept, str(suite.data.source)),
                            {"sha256": returned.sha256, "stream": dataclasses.asdict(stream)}
                            if streamed else {})
    return Prepared(suite.data.name, folder, meta["sha256"], str(suite.data.source))


def call(problem: SuiteProblem, data_dir: Path | None, offline: bool, cache: Path | None = None
         ) -> Any:
    """Return what the suite's ``[data] source`` returns.

    Args:
        problem: Holds the suite and the callable.
        data_dir: Is given to callables with an argument of this name.
        offline: Likewise.
        cache: Where torchvision's data sets are looked for without ``data_dir``.

    Raises:
        UserError: It raises.
    """
    options = dict(problem.suite.data.options or {})
    name = problem.torchvision()
    if name:
        from bench_apts.suites.readers import torchvision_data

        place = arrays.cache_root(cache) / "data" if data_dir is None else data_dir
        return torchvision_data.by_class(name, place, offline, options,
                                         bool(problem.suite.data.stream))
    for argument, value in (("data_dir", data_dir), ("offline", offline)):
        if argument in problem.parameters("data"):
            options.setdefault(argument, value)
    return problem.call("data", options)


class _Returned(NamedTuple):
    """What one call of a source returned; of streamed data, ``splits`` are examples."""

    splits: Splits
    lengths: dict[str, int]
    class_names: Any
    sha256: str


def _returned(problem: SuiteProblem, data_dir: Path | None, offline: bool, cache: Path | None,
              where: str) -> _Returned:
    """Call the source once and read what it returns."""
    result = call(problem, data_dir, offline, cache)
    if not problem.suite.data.stream:
        splits = {part: returned_data.pair(split, f"{where}: {part}")
                  for part, split in returned_data.named_splits(result, where).items()}
        return _Returned(splits, {}, (), arrays.fingerprint(arrays.by_name(splits)))
    found = returned_data.datasets(result, where)
    splits = returned_data.examples(found, where)
    lengths = {part: len(dataset) for part, dataset in found.items()}
    return _Returned(splits, lengths, getattr(found["train"], "classes", ()),
                     returned_data.fingerprint(arrays.by_name(splits), lengths))


def _checked(splits: Splits, suite: Suite, problem: SuiteProblem, where: str) -> Splits:
    """Check that splits fit together, the suite and the task.

    Raises:
        UserError: They do not.
    """
    own = "validation" in splits
    if own and suite.data.validation:
        raise UserError(f"{where}: there is a validation split; leave out data.validation")
    if not own and not suite.data.validation:
        raise UserError(f"{where}: there is no validation split; say in data.validation how many "
                        "training samples validate")
    splits = fitting(splits, where)
    for part, (inputs, targets) in splits.items():
        try:
            problem.task.check(inputs, targets)
        except Exception as error:
            raise UserError(f"{where}: {part}: {error}") from error
    return splits


def _class_count(splits: Splits, names: Any) -> int:
    """Return how many classes a data set names or its targets show; 0 without classes."""
    targets = [pair[1] for pair in splits.values()]
    if targets[0].ndim != 1 or targets[0].dtype.kind not in "iu":
        return 0
    return max(len(names) if isinstance(names, list | tuple) else 0,
               *(int(array.max()) + 1 for array in targets))


def _scaling(found: arrays.Arrays, given: Data, where: str, classes: int, streamed: bool
             ) -> InputScaling:
    """Return how inputs are normalised: as the suite says, or by the training split.

    Of streamed data floats stay as they are and images of bytes are divided by 255, unless the
    suite says otherwise.
    """
    inputs = found["train_inputs"]
    size = sum(array.nbytes for array in found.values()) + 2**20
    if not arrays.scaled(inputs):
        if given.mean is not given.std:
            raise UserError(f"{where}: inputs of whole numbers, and dictionaries, are not "
                            "normalised; leave out data.mean and data.std")
        return InputScaling((0.0,), (1.0,), 1.0, classes, size)
    scale = 1 / 255 if inputs.dtype == np.uint8 else 1.0
    mean, std = _moments(inputs, scale)
    if streamed:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
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
    return InputScaling(mean, std, scale, classes, size)


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
