"""The optimizers that ``--optimizers`` names: selectors, lists of values, groups, exclusions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.configuration import expand_lists, parse_selector, split_selectors
from bench_apts.core.errors import UserError, unknown
from bench_apts.plugins import entry_points, registry
from bench_apts.plugins.entry_points import OPTIMIZERS
from bench_apts.plugins.optimizer_contract import GRADIENT_SUM

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench_apts.plugins.backend import Backend

ALL = "all"

_SIZE, _RANKS = 10**6, 4
"""Parameters and ranks at which formulas of bytes are compared; any do."""


def _saves_bytes(backend: Backend) -> bool:
    """Say whether an optimizer declares to send less than a sum of gradients in each step."""
    formula = backend.traffic
    if backend.saves_communication or formula is None:
        return backend.saves_communication
    sent, usual = (sum(each.ideal(_SIZE, _RANKS).values()) for each in (formula, GRADIENT_SUM))
    return formula.unit == "round" or sent < usual


def _has_paper_preset(backend: Backend) -> bool:
    """Say whether an optimizer can be run with the settings of the paper that it is from."""
    knob = backend.hyperparameters.get("preset")
    return knob is not None and "paper" in knob.allowed


GROUPS: dict[str, Callable[[Backend], bool]] = {
    ALL: lambda backend: True,
    "tuning-free": lambda backend: backend.tuning_free,
    "low-communication": _saves_bytes,
    "paper": _has_paper_preset,
}
"""The groups of installed optimizers, by what their backends declare. An optimizer that has the
name of a group goes before the group."""


class Selection(NamedTuple):
    """Plain selectors that a text for ``--optimizers`` names, and notes on what is left out."""

    selectors: list[str]
    notes: list[str]


class _Chosen(NamedTuple):
    """A selector, and whether it may be left out where its optimizer cannot run."""

    selector: str
    optional: bool

    @property
    def name(self) -> str:
        return self.selector.partition("[")[0].strip()


def select(text: str, optional: bool = False) -> Selection:
    """Read what ``--optimizers`` names.

    Lists of values are written out, groups become their members that can run here, and
    ``-NAME`` takes back what the text named before. What a group and the text both name counts
    once.

    Args:
        text: As the user wrote it.
        optional: Whether all of it may be left out where it cannot run, as of a default.

    Raises:
        UserError: A list is malformed, a group has settings, an exclusion takes nothing back, or
            nothing is left.
    """
    chosen: list[_Chosen] = []
    for part in split_selectors(text):
        if part.startswith("-"):
            chosen = _without(chosen, part[1:].strip())
        elif group := _group(part):
            known = {one.selector for one in chosen}
            chosen += [_Chosen(name, True) for name in members(group) if name not in known]
        else:
            for selector in expand_lists(part):
                one = _Chosen(selector, optional)
                twin = _Chosen(selector, True)
                if not optional and twin in chosen:
                    chosen[chosen.index(twin)] = one
                else:
                    chosen.append(one)
    if not chosen:
        raise UserError("--optimizers names none; see `bench-apts list optimizers`")
    found = Selection([], [])
    for one in chosen:
        reason = _reason(one) if one.optional else ""
        if reason:
            found.notes.append(f"{one.selector} is left out: unavailable ({reason})")
        else:
            found.selectors.append(one.selector)
    return found


def members(group: str) -> list[str]:
    """Return the names of the installed optimizers of a group, sorted.

    Those that cannot be imported are known to be in the group of all only.
    """
    found = []
    for name in registry.optimizer_names():
        try:
            if GROUPS[group](registry.optimizer(name).backend):
                found.append(name)
        except UserError:
            if group == ALL:
                found.append(name)
    return found


def _group(part: str) -> str:
    """Return the group that a part of the text names; "" if it names an optimizer.

    Raises:
        UserError: It names neither, or gives a group settings.
    """
    name, bracket, _ = part.partition("[")
    installed = entry_points.entries(OPTIMIZERS)
    name = name.strip()
    if name.endswith(".py") or name in installed:
        return ""
    if name in GROUPS:
        if bracket:
            raise UserError(f"'{part}': {name} is a group of optimizers, which takes no settings")
        return name
    optimizer = parse_selector(expand_lists(part)[0]).optimizer
    raise unknown("optimizer", optimizer, [*installed, *GROUPS],
                  "See `bench-apts list optimizers`.")


def _without(chosen: list[_Chosen], excluded: str) -> list[_Chosen]:
    """Leave out a selector, all of an optimizer, or a group."""
    names = members(excluded) if excluded in GROUPS else [excluded]
    selectors = expand_lists(excluded)
    left = [one for one in chosen if one.selector not in selectors and one.name not in names]
    if len(left) == len(chosen):
        raise UserError(f"--optimizers: '-{excluded}' takes back nothing that is named before it")
    return left


def _reason(one: _Chosen) -> str:
    """Say why an optimizer cannot run here; "" if it can."""
    try:
        return registry.optimizer(one.name).backend.unavailable() or ""
    except UserError as error:
        return str(error)
