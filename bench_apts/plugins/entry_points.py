"""What installed packages offer by entry point: optimizers, suites, tasks, sections."""

from __future__ import annotations

import functools
from importlib.metadata import Distribution, EntryPoint, entry_points

from bench_apts.core.errors import UserError

OPTIMIZERS = "bench_apts.optimizers"
SUITES = "bench_apts.suites"
TASKS = "bench_apts.tasks"
SECTIONS = "bench_apts.sections"

_OURS = "bench-apts"


@functools.cache
def entries(group: str) -> dict[str, list[EntryPoint]]:
    """Return a group's entry points by name, ours first.

    Equal ones, of a package that is found twice, count once.
    """
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=group), key=lambda each: distribution(each) != _OURS):
        known = found.setdefault(entry.name, [])
        if all((other.value, distribution(other)) != (entry.value, distribution(entry))
               for other in known):
            known.append(entry)
    return found


def only(group: str, name: str) -> EntryPoint:
    """Return the entry point of a name that is offered.

    Raises:
        UserError: Several packages offer the name.
    """
    found = entries(group)[name]
    if len(found) > 1:
        raise several_offers(name, group, [distribution(entry) for entry in found])
    return found[0]


def several_offers(name: str, group: str, distributions: list[str]) -> UserError:
    """Return the error of a name that several packages offer."""
    return UserError(f"'{name}' is offered twice in {group}, by {' and '.join(distributions)}: "
                     "uninstall one")


def distribution(entry: EntryPoint) -> str:
    """Return the name of the distribution that offers an entry point."""
    return _name(entry.dist) if entry.dist else "unknown"


@functools.cache  # it parses all of a package's metadata, for each entry point again
def _name(found: Distribution) -> str:
    return found.name


def origin(*found: EntryPoint) -> str:
    """Return where entry points come from, for people."""
    return ", ".join("built in" if name == _OURS else name for name in map(distribution, found))


def forget() -> None:
    """Have the next call look at the installed packages again."""
    entries.cache_clear()
    _name.cache_clear()
