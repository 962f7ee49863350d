"""Whether what a backend declares can be used, checked when the backend is made."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from bench_apts.core.configuration import Choice, Hyperparameter, LogUniform, Uniform, coerce
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.plugins.optimizer_contract import Backend, TrafficFormula

_LONGEST_NAME = 64
_RESERVED = "[],="
"""What a selector is written with."""

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 80

_CALLS = {"build": ("model", "loss", "values", "world"),
          "batch_size": ("suite_batch", "values", "ranks"),
          "sampling": ("values",)}
"""The arguments, all by position, that the harness calls a backend's functions with."""


def check(backend: Backend) -> None:
    """Check every field of a backend.

    Raises:
        UserError: For the first field that cannot be used: the backend's name, the field or the
            hyperparameter, what was expected and what was found.
    """
    _name("a backend's name", backend.name)
    if backend.name.endswith(".py"):
        raise UserError(f"a backend's name: {shown(backend.name)} would be taken for a file; "
                        "leave out .py")
    where = backend.name
    _is(f"{where}: summary", backend.summary, str)
    _is(f"{where}: follows", backend.follows, str)
    _is(f"{where}: tuning_free", backend.tuning_free, bool)
    _is(f"{where}: moves_weights", backend.moves_weights, bool)
    _is(f"{where}: family", backend.family, str)
    _is(f"{where}: space_version", backend.space_version, int)
    _is(f"{where}: min_ranks", backend.min_ranks, int)
    if backend.min_ranks < 1:
        _fail(f"{where}: min_ranks", "a number of at least 1", backend.min_ranks)
    if backend.follows == where:
        _fail(f"{where}: follows", "the name of another optimizer", backend.follows)
    for field in ("requires", "sources"):
        modules = _tuple(f"{where}: {field}", getattr(backend, field))
        for module in modules:
            if not isinstance(module, str) or not all(
                    part.isidentifier() for part in module.split(".")):
                _fail(f"{where}: {field}", "names of modules as `import` takes them", module)
    for field, arguments in _CALLS.items():
        _callable(f"{where}: {field}", getattr(backend, field), arguments,
                  optional=field != "build")
    for suite in _tuple(f"{where}: developed_on", backend.developed_on):
        if not isinstance(suite, str) or not suite:
            _fail(f"{where}: developed_on", "names of suites", suite)
    if backend.traffic is not None:
        _traffic(f"{where}: traffic", backend.traffic)
    _hyperparameters(where, backend.hyperparameters)
    _bundles(backend)
    turned = [name for name, knob in backend.hyperparameters.items() if knob.search or knob.wide]
    if backend.tuning_free and (turned or backend.ordered):
        what = f"the search of {turned[0]}" if turned else "ordered configurations"
        raise UserError(f"{where}: tuning_free contradicts {what}; leave one of them out")


def shown(value: object) -> str:
    """Return any object's type and value in a few words."""
    kind, text = type(value).__name__, _short.repr(value)
    return text if text.startswith(kind) else f"{kind} {text}"


def _fail(where: str, expected: str, value: object) -> NoReturn:
    raise UserError(f"{where}: expected {expected}, got {shown(value)}")


def _is(where: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        _fail(where, kind.__name__, value)


def _tuple(where: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        _fail(where, "a tuple", value)
    return value


def _name(where: str, value: object) -> None:
    """Check that a selector can hold a name."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME or not all(
            c.isprintable() and not c.isspace() and c not in _RESERVED for c in value):
        _fail(where, f"1 to {_LONGEST_NAME} printable characters without spaces and without any "
              f"of {' '.join(_RESERVED)}", value)


def _callable(where: str, value: Any, arguments: tuple[str, ...], optional: bool) -> None:
    if value is None and optional:
        return
    taken = f"({', '.join(arguments)})"
    if not callable(value):
        _fail(where, f"a function of {taken}", value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of some functions in C nothing is known
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(f"{where}: is called with {taken}, and takes {signature}: {error}"
                        ) from error


def _traffic(where: str, formula: TrafficFormula) -> None:
    for field in ("words", "unit", "payloads", "note"):
        if not hasattr(formula, field):
            _fail(where, "a TrafficFormula", formula)
    _is(f"{where}: words", formula.words, str)
    _is(f"{where}: note", formula.note, str)
    if formula.unit not in ("step", "round"):
        _fail(f"{where}: unit", "step or round", formula.unit)
    _callable(f"{where}: payloads", formula.payloads, ("parameters", "ranks"), optional=False)


def _hyperparameters(where: str, known: Any) -> None:
    if not isinstance(known, Mapping):
        _fail(f"{where}: hyperparameters", "Hyperparameters by name", known)
    for name, knob in known.items():
        _name(f"{where}: a hyperparameter's name", name)
        _knob(f"{where}: hyperparameter {name}", knob)


def _knob(where: str, knob: Any) -> None:
    if not isinstance(knob, Hyperparameter):
        _fail(where, "a Hyperparameter", knob)
    if type(knob.default) not in (bool, int, float, str) or (
            type(knob.default) is int and not _number(knob.default)):
        _fail(f"{where}: default", "bool, int (of 64 bits), float or str", knob.default)
    _is(f"{where}: meaning", knob.meaning, str)
    for field in ("least", "above", "below"):
        limit = getattr(knob, field)
        if not _number(limit) and not (isinstance(limit, float) and math.isinf(limit)):
            _fail(f"{where}: {field}", "a number", limit)
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
            _fail(f"{where}: default", f"a number within its search, {knob.search}", knob.default)


def _values(where: str, values: Any, knob: Hyperparameter) -> None:
    """Check that all of several values are a knob's, and none is there twice."""
    there = [coerce(f"{where}: {_short.repr(value)}", value, knob)
             for value in _tuple(where, values)]
    if len(set(there)) < len(there):
        _fail(where, "no value twice", values)


def _distribution(where: str, search: Any, knob: Hyperparameter) -> None:
    if isinstance(search, Choice):
        if not _tuple(where, search.options):
            _fail(where, "at least one option", search)
        _values(where, search.options, replace(_limits(knob), options=knob.options))
        return
    if not isinstance(search, LogUniform | Uniform):
        _fail(where, "LogUniform(low, high), Uniform(low, high) or Choice(options)", search)
    kind = type(knob.default)
    if kind not in (int, float):
        _fail(where, "a Choice, as the default is not a number", search)
    if knob.options:
        _fail(where, "a Choice of some of the options", search)
    low, high = search.low, search.high
    if not (_number(low) and _number(high) and math.isfinite(high - low)):
        _fail(where, "two finite bounds", search)
    if kind is int and not (type(low) is type(high) is int):
        _fail(where, f"two bounds of type int, as the default {knob.default} is", search)
    if not low < high:
        _fail(where, "a low bound below the high one", search)
    if isinstance(search, LogUniform) and low <= 0:
        _fail(where, "bounds above 0", search)
    for bound in (low, high):
        coerce(f"{where}: bound {bound}", bound, _limits(knob))


def _limits(knob: Hyperparameter) -> Hyperparameter:
    """Return a knob that accepts what the default's type and the limits allow."""
    return replace(knob, search=None, options=(), wide=None)


def _number(value: object) -> bool:
    """Say whether a value is a finite number of at most 64 bits."""
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and (-2**63 <= value < 2**63 if isinstance(value, int) else math.isfinite(value)))


def _bundles(backend: Backend) -> None:
    """Check presets and ordered configurations: known names, values that these may take."""
    where = f"{backend.name}: presets"
    if not isinstance(backend.presets, Mapping):
        _fail(where, "settings by the preset's name", backend.presets)
    if backend.presets and "preset" not in backend.hyperparameters:
        raise UserError(f"{where}: expected a hyperparameter named preset to choose them by")
    for name, values in backend.presets.items():
        allowed = [str(option) for option in backend.hyperparameters["preset"].allowed]
        if not isinstance(name, str) or (allowed and name not in allowed):
            _fail(where, f"names out of {', '.join(allowed) or 'strings'}", name)
        _bundle(f"{where}: {name}", values, backend.hyperparameters)
    where = f"{backend.name}: ordered"
    for number, values in enumerate(_tuple(where, backend.ordered), 1):
        _bundle(f"{where}: configuration {number}", values, backend.hyperparameters)


def _bundle(where: str, values: Any, known: Mapping[str, Hyperparameter]) -> None:
    if not isinstance(values, Mapping):
        _fail(where, "values by the hyperparameter's name", values)
    for name, value in values.items():
        if name not in known:
            _fail(where, f"hyperparameters out of {', '.join(known) or 'none'}", name)
        coerce(f"{where}: {name}={_short.repr(value)}", value, known[name])
