"""Pickles that may hold arrays and nothing else, whatever code loads them."""

from __future__ import annotations

import functools
import pickle
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRAYS = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
                    ("numpy._core.multiarray", "_reconstruct"), ("numpy", "dtype"),
                    ("_codecs", "encode")})
"""The only names that a pickle may use while a data set is read: those of NumPy's arrays."""

_reading: ContextVar[bool] = ContextVar("reading", default=False)


@contextmanager
def only_arrays() -> Iterator[None]:
    """Refuse what a pickle names, except NumPy's arrays, while the block runs in this thread.

    Raises:
        UserError: A pickle in the block names anything else; it has run nothing then.
    """
    _watch()
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def load_arrays(content: bytes) -> Any:
    """Return what a pickle of Python 2 or 3 holds: arrays in plain containers.

    Raises:
        UserError: It names anything else; it has run nothing then.
        Exception: It is damaged.
    """
    with only_arrays():
        return pickle.loads(content, encoding="latin1")


@functools.cache
def _watch() -> None:
    """Install the audit hook once in a process: it cannot be removed again."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and _reading.get() and arguments not in ARRAYS:
        raise UserError(f"a pickle among the data set's files names {'.'.join(arguments)}, which "
                        "may run code; fetch the files again from their publisher")
