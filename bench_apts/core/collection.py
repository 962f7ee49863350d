"""Keeps Python's garbage collector from walking over millions of records again and again.

They have no cycles, and at ten thousand trials it would take a third of a report's time.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_SELDOM = 100_000
"""Objects that are added before any are collected; Python's own number is 700."""


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collects nothing while the block runs."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextlib.contextmanager
def spared(make: Callable[[], T]) -> Iterator[T]:
    """Yields what ``make`` returns; while the block runs, only what it adds is collected.

    And that not often: a report adds much that stays, and little that has to be found.
    """
    with paused():
        made = make()
        gc.freeze()
    often = gc.get_threshold()
    gc.set_threshold(_SELDOM, *often[1:])
    try:
        yield made
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()
