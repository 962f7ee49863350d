"""torchvision's data sets, by the names of their classes; pickles in them may hold arrays only."""

from __future__ import annotations

import functools
import http.client
import importlib
import inspect
import socket
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError, describe_error, unknown
from bench_apts.suites.readers.image_files import DAMAGED, Shape, Stack
from bench_apts.suites.readers.reader_paths import candidates
from bench_apts.suites.readers.split_checks import assembled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench_apts.suites.readers.image_files import Size
    from bench_apts.suites.readers.reader_paths import PathName
    from bench_apts.suites.readers.split_checks import Splits

FAILURES = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, ImportError,
            AssertionError, MemoryError, http.client.HTTPException)
"""Of torchvision's classes when files are missing or damaged, or an argument does not fit."""

SERVER_TIMEOUT_S = 30.0
"""How long a server may be silent."""

PICKLED_NAMES = frozenset({
    ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy", "dtype"), ("_codecs", "encode")})
"""The only names that a pickle may use while a data set is read: those of NumPy's arrays."""

_reading: ContextVar[bool] = ContextVar("reading", default=False)


def torchvision(name: str, root: PathName = ".", offline: bool = False,
                size: Size = None, channels: int | None = None, test_share: float = 0.2,
                options: dict[str, Any] | None = None,
                data_dir: PathName | None = None) -> Splits:
    """Read a data set of ``torchvision.datasets`` with images and one number as target.

    torchvision's own reader finds, downloads and decodes the files. Classes with an argument
    ``train`` or ``split`` give their training and test splits (``val`` or ``valid`` where there is
    no ``test``), others are divided by content. Pickles are read only as far as they hold arrays.

    Args:
        name: Of the class, such as ``FashionMNIST``, ``CIFAR10``, ``SVHN`` or ``EuroSAT``.
        root: The folder that torchvision looks in and downloads to.
        offline: Whether a download is forbidden.
        size: Height and width in pixels to which images are resized, one number for both; needed
            if they are not equally large.
        channels: 1 (gray) or 3 (RGB); that of the first image without it.
        test_share: Of a data set without splits; more than 0 and less than 1.
        options: Further arguments of the class, such as ``{"split": "letters"}`` for EMNIST.
        data_dir: Where a relative ``root`` lies; the working directory without it.

    Returns:
        The splits: inputs uint8 ``(n, C, H, W)``; targets int64 ``(n,)``, or floats.

    Raises:
        UserError: torchvision has no such class, its files are missing, damaged or cannot be
            downloaded, a pickle in them would run code, or samples have another form.
    """
    module = importlib.import_module("torchvision.datasets")
    known = [found for found in module.__all__
             if isinstance(getattr(module, found), type) and found != "VisionDataset"]
    if name not in known:
        raise unknown("torchvision data set", name, known)
    place = candidates(root, data_dir)[0]
    where = f"torchvision's {name} in {place}"
    shape = Shape.of(size, channels)
    parts: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for part, dataset in opened(getattr(module, name), place, offline, options or {}).items():
        parts[part] = _read(dataset, shape, f"{where}, split {part}")
    return assembled(parts, where, test_share)


def by_class(name: str, root: Path, offline: bool, options: dict[str, Any], lazy: bool) -> Any:
    """Return a data set whose class a suite names as ``torchvision.datasets:Name``.

    ``options`` are ``size``, ``channels`` and ``test_share`` of ``torchvision``, and arguments of
    the class. With ``lazy`` the class's data sets are returned by split, instead of arrays.

    Raises:
        UserError: As ``torchvision``; or the options cannot be combined with ``lazy``.
    """
    own = {key: options[key] for key in ("size", "channels", "test_share") if key in options}
    rest = {key: value for key, value in options.items() if key not in own}
    place = (root / rest.pop("root", "")).absolute()
    if not lazy:
        return torchvision(name, place, offline, **own, options=rest)
    module = importlib.import_module("torchvision.datasets")
    if own:
        raise UserError(f"torchvision.datasets.{name}: {', '.join(own)} cannot be had with [data] "
                        "stream = true; write a function that returns the data sets with a "
                        "transform")
    found = opened(getattr(module, name), place, offline, rest)
    if "test" not in found:
        raise UserError(f"torchvision.datasets.{name} has no test split, and [data] stream = true "
                        "divides nothing; write a function that returns its splits")
    return found


def opened(kind: Any, root: Path, offline: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return the data sets of the splits that a class of torchvision has, ``train`` first."""
    arguments = _arguments(kind)
    unfit = sorted(set(options) - set(arguments))
    if unfit:
        raise unknown("argument", unfit[0], arguments, f"(torchvision.datasets.{kind.__name__})")
    given = dict(options)
    if "root" in arguments:
        given["root"] = root
    choices: dict[str, list[dict[str, Any]]]
    if "train" in arguments:
        choices = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in arguments and "split" not in options:
        choices = {"train": [{"split": "train"}],
                   "test": [{"split": word} for word in ("test", "val", "valid")]}
    else:
        choices = {"train": [{}]}
    return {part: _first(kind, [given | choice for choice in some], root, offline)
            for part, some in choices.items()}


def _arguments(kind: Any) -> list[str]:
    """Return the names of a class's arguments, also of those it hands on to its bases."""
    names: list[str] = []
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base).parameters.values()
            names += [found.name for found in parameters if found.kind != found.VAR_KEYWORD]
            if not any(found.kind == found.VAR_KEYWORD for found in parameters):
                break
    return names


def _first(kind: Any, choices: list[dict[str, Any]], root: Path, offline: bool) -> Any:
    """Return a data set by the first arguments whose split the class knows."""
    for given in choices:
        try:
            return _made(kind, given, offline or "download" not in _arguments(kind))
        except FAILURES as error:
            if "Unknown value" not in str(error) or given is choices[-1]:
                raise _missing(kind, root, error) from error
    raise AssertionError("there is at least one choice")


def _made(kind: Any, given: dict[str, Any], offline: bool) -> Any:
    """Return a data set of files that are there or, unless offline, can be downloaded."""
    try:
        with only_arrays():
            return kind(**given)
    except RuntimeError:  # of torchvision: not found
        if offline:
            raise
        return fetch(kind, given)


def fetch(kind: Any, given: dict[str, Any]) -> Any:
    """Return a data set whose files torchvision downloads, and compares with its checksums.

    Raises:
        UserError: A pickle in the files would run code.
        Exception: One of ``FAILURES``: the network or the server does not allow it.
    """
    before = socket.getdefaulttimeout()  # torchvision sets no limit of its own
    socket.setdefaulttimeout(SERVER_TIMEOUT_S)
    try:
        with only_arrays():
            return kind(**given, download=True)
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def only_arrays() -> Iterator[None]:
    """Refuse pickles that name anything but NumPy's arrays while the block runs in this thread.

    A refused pickle has run nothing.
    """
    _install_hook()
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


@functools.cache
def _install_hook() -> None:
    """Install the audit hook, once: Python cannot remove one."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and _reading.get() and arguments not in PICKLED_NAMES:
        raise UserError(f"a pickle among the data set's files names {'.'.join(arguments)}, which "
                        "may run code; fetch the files again from their publisher")


def _missing(kind: Any, root: Path, error: Exception) -> UserError:
    """Return what to do when torchvision cannot read a data set."""
    name = kind.__name__
    example = f"torchvision.datasets.{name}({str(root)!r}, download=True)"
    folder = root / name / "raw" if hasattr(kind, "resources") else root
    return UserError(f"torchvision cannot read {name} in {root} ({describe_error(error)}); put "
                     f"its files, unpacked, into {folder}, or run {example} in Python where there "
                     "is a network")


def _read(dataset: Any, shape: Shape, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the images and targets of a data set."""
    labels = getattr(dataset, "targets", None)
    if labels is not None and len(labels) != len(dataset):  # torchvision would drop the others
        raise UserError(f"{where}: {len(dataset)} images but {len(labels)} targets; fetch the "
                        "files again")
    stack, targets = Stack(len(dataset), shape, where), []
    for row in range(len(dataset)):
        try:
            with only_arrays():
                sample = dataset[row]
        except (*DAMAGED, LookupError) as error:
            stack.fail(f"image {row}", error)
            continue
        if not (isinstance(sample, tuple) and len(sample) == 2
                and hasattr(sample[0], "convert") and np.isscalar(sample[1])):
            form = (", ".join(type(part).__name__ for part in sample)
                    if isinstance(sample, tuple) else type(sample).__name__)
            raise UserError(f"{where}: a sample is ({form}), expected an image and a number; "
                            "write a function of your own that returns arrays")
        stack.put(row, sample[0], f"image {row}")
        targets.append(sample[1])
    return stack.finish(), np.array(targets)
