"""The tasks that a suite can name: ready-made ones, and those that installed packages offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError, unknown
from bench_apts.plugins import offers, sources
from bench_apts.tasks.contract import Task
from bench_apts.tasks.ready import READY

if TYPE_CHECKING:
    from bench_apts.plugins.sources import Loaded


def names() -> list[str]:
    """Return the names that ``[task] name`` may have, sorted."""
    return sorted({*READY, *offers.entries(offers.TASKS)})


def origin(name: str) -> str:
    """Return where a task comes from: built in, or its distribution."""
    found = offers.origin(*offers.entries(offers.TASKS).get(name, ()))
    return ", ".join(filter(None, ("built in" * (name in READY), found)))


def load(name: str) -> Loaded:
    """Return the class of a task.

    Raises:
        UserError: There is none of the name, several packages offer it, or it cannot be imported.
    """
    entries = offers.entries(offers.TASKS)
    if name in READY and name in entries:
        raise offers.twice(name, offers.TASKS, [
            "bench-apts", *map(offers.distribution, entries[name])])
    if name in READY:
        return sources.Loaded(READY[name], (), None)
    if name not in entries:
        raise unknown("task", name, names())
    entry = offers.only(offers.TASKS, name)
    what = f"task '{name}' of {offers.distribution(entry)}"
    found = sources.load(f"{entry.module}:{entry.attr}", Path(), what)
    if not (isinstance(found.value, type) and issubclass(found.value, Task)):
        raise UserError(f"{what} ({entry.value}) is no subclass of bench_apts.tasks.Task")
    return found
