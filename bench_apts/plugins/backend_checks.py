"""Checks of what a backend declares: types, names, functions, hyperparameters and their values.

Every failure is a ``UserError`` that names the backend and the field or the hyperparameter, what
was expected and what was found.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from bench_apts.core.configuration import Choice, Hyperparameter, LogUniform, Uniform, coerce
from bench_apts.core.errors import UserError

_MAX_NAME = 64
_RESERVED = "[],="
"""What a selector is written with."""

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 80


def shown(value: object) -> str:
    """Return any object's type and value in a few words."""
    kind, text = type(value).__name__, _short.repr(value)
    return text if text.startswith(kind) else f"{kind} {text}"


def fail(where: str, expected: str, value: object) -> NoReturn:
    """Raise the error of a value that is not what was expected."""
    raise UserError(f"{where}: expected {expected}, got {shown(value)}")


def require_type(where: str, value: object, kind: type) -> None:
    """Require a value of exactly this type; a bool does not count as an int."""
    if type(value) is not kind:
        fail(where, kind.__name__, value)


def require_tuple(where: str, value: Any) -> tuple[Any, ...]:
    """Return a value that is a tuple."""
    if not isinstance(value, tuple):
        fail(where, "a tuple", value)
    return value


def require_name(where: str, value: object) -> None:
    """Require a name that a selector can hold."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or not all(
            c.isprintable() and not c.isspace() and c not in _RESERVED for c in value):
        fail(where, f"1 to {_MAX_NAME} printable characters without spaces and without any of "
             f"{' '.join(_RESERVED)}", value)


def require_function(where: str, value: Any, arguments: tuple[str, ...]) -> None:
    """Require a function or class that can be called with arguments, all by position."""
    call = f"({', '.join(arguments)})"
    if not callable(value):
        fail(where, f"a function of {call}", value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some functions in C have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(f"{where}: is called with {call}, and takes {signature}: {error}"
                        ) from error


def check_hyperparameters(where: str, known: Any) -> None:
    """Require hyperparameters by name whose defaults, limits and searches fit together."""
    if not isinstance(known, Mapping):
        fail(f"{where}: hyperparameters", "Hyperparameters by name", known)
    for name, knob in known.items():
        require_name(f"{where}: a hyperparameter's name", name)
        _knob(f"{where}: hyperparameter {name}", knob)


def check_bundles(
    where: str, known: Mapping[str, Hyperparameter], presets: Any, ordered: Any
) -> None:
    """Require presets and ordered configurations of known names and values that these may take.

    Args:
        where: The backend's name.
        known: Its hyperparameters, which have been checked.
        presets: Settings by the preset's name.
        ordered: A tuple of configurations.
    """
    place = f"{where}: presets"
    if not isinstance(presets, Mapping):
        fail(place, "settings by the preset's name", presets)
    if presets and "preset" not in known:
        raise UserError(f"{place}: expected a hyperparameter named preset to choose them by")
    for name, values in presets.items():
        allowed = [str(option) for option in known["preset"].allowed]
        if not isinstance(name, str) or (allowed and name not in allowed):
            fail(place, f"names out of {', '.join(allowed) or 'strings'}", name)
        _bundle(f"{place}: {name}", values, known)
    place = f"{where}: ordered"
    for number, values in enumerate(require_tuple(place, ordered), 1):
        _bundle(f"{place}: configuration {number}", values, known)


def _knob(where: str, knob: Any) -> None:
    if not isinstance(knob, Hyperparameter):
        fail(where, "a Hyperparameter", knob)
    if type(knob.default) not in (bool, int, float, str) or (
            type(knob.default) is int and not _number(knob.default)):
        fail(f"{where}: default", "bool, int (of 64 bits), float or str", knob.default)
    require_type(f"{where}: meaning", knob.meaning, str)
    for field in ("least", "above", "below"):
        limit = getattr(knob, field)
        if not _number(limit) and not (isinstance(limit, float) and math.isinf(limit)):
            fail(f"{where}: {field}", "a number", limit)
    _values(f"{where}: options", knob.options, _limits(knob))
    for field in ("search", "wide"):
        if getattr(knob, field) is not None:
            _distribution(f"{where}: {field}", getattr(knob, field), knob)
    coerce(f"{where}: default {knob.default!r}", knob.default, knob)
    if isinstance(knob.search, LogUniform | Uniform):
        assert isinstance(knob.default, int | float)
        # No logarithmic range holds the 0 that switches something off.
        off = knob.default == 0 and isinstance(knob.search, LogUniform)
        if not off and not knob.search.low <= knob.default <= knob.search.high:
            fail(f"{where}: default", f"a number within its search, {knob.search}", knob.default)


def _values(where: str, values: Any, knob: Hyperparameter) -> None:
    """Check that all of several values are a knob's, and none is there twice."""
    there = [coerce(f"{where}: {_short.repr(value)}", value, knob)
             for value in require_tuple(where, values)]
    if len(set(there)) < len(there):
        fail(where, "no value twice", values)


def _distribution(where: str, search: Any, knob: Hyperparameter) -> None:
    if isinstance(search, Choice):
        if not require_tuple(where, search.options):
            fail(where, "at least one option", search)
        _values(where, search.options, replace(_limits(knob), options=knob.options))
        return
    if not isinstance(search, LogUniform | Uniform):
        fail(where, "LogUniform(low, high), Uniform(low, high) or Choice(options)", search)
    kind = type(knob.default)
    if kind not in (int, float):
        fail(where, "a Choice, as the default is not a number", search)
    if knob.options:
        fail(where, "a Choice of some of the options", search)
    low, high = search.low, search.high
    if not (_number(low) and _number(high) and math.isfinite(high - low)):
        fail(where, "two finite bounds", search)
    if kind is int and not (type(low) is type(high) is int):
        fail(where, f"two bounds of type int, as the default {knob.default} is", search)
    if not low < high:
        fail(where, "a low bound below the high one", search)
    if isinstance(search, LogUniform) and low <= 0:
        fail(where, "bounds above 0", search)
    for bound in (low, high):
        coerce(f"{where}: bound {bound}", bound, _limits(knob))


def _limits(knob: Hyperparameter) -> Hyperparameter:
    """Return a knob that accepts what the default's type and the limits allow."""
    return replace(knob, search=None, options=(), wide=None)


def _number(value: object) -> bool:
    """Say whether a value is a finite number of at most 64 bits."""
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and (-2**63 <= value < 2**63 if isinstance(value, int) else math.isfinite(value)))


def _bundle(where: str, values: Any, known: Mapping[str, Hyperparameter]) -> None:
    if not isinstance(values, Mapping):
        fail(where, "values by the hyperparameter's name", values)
    for name, value in values.items():
        if name not in known:
            fail(where, f"hyperparameters out of {', '.join(known) or 'none'}", name)
        coerce(f"{where}: {name}={_short.repr(value)}", value, known[name])
