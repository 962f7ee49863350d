"""What users write: TOML files, ``key=value`` and selectors; hyperparameters, which they set.

The ``require_*`` functions check the options that networks and generated data take from a suite:
by name, with the owner for the message, such as ``"model 'gpt'"``. They raise a UserError.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError, shortened
from bench_apts.core.files import require_regular_file
from bench_apts.core.spec import Entry, Scalar

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 2**16
"""Larger files are not written by hand; reading long keys takes quadratic time."""

_MAX_DEPTH = 32
"""Tables and lists inside one another; readers of records, and Python, have limits too."""


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: The file.
        what: What it holds, for the message, for instance ``"suite"``.

    Raises:
        UserError: The file cannot be read, is too large or is not valid TOML.
    """
    try:
        if path.exists():
            require_regular_file(path, "name a TOML file", f"cannot read {what}:")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"{path} has more than {_MAX_BYTES:,} bytes, which no {what} needs")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, bad bytes, long integers
        raise UserError(f"{path} is not valid TOML: {error}") from error


def find_unstorable_value(table: dict[str, Any]) -> str | None:
    """Return what is wrong with a value that JSON, and so a record, cannot hold.

    Returns:
        The first such value's problem, in the form ``key 'a.b': …``; None if there is none.
    """
    pending: list[tuple[str, Any, int]] = [("", table, 0)]
    while pending:
        key, value, depth = pending.pop()
        if problem := _unstorable(value, depth):
            return f"key '{shortened(key, 200)}': {problem}"
        items = (value.items() if isinstance(value, dict)
                 else enumerate(value) if isinstance(value, list) else ())
        pending += [(f"{key}.{name}" if key else str(name), item, depth + 1)
                    for name, item in items]
    return None


def _unstorable(value: Any, depth: int) -> str | None:
    if depth > _MAX_DEPTH:
        return f"nested deeper than {_MAX_DEPTH} levels"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        return "expected a number of at most 64 bits"
    if isinstance(value, dt.date | dt.time):
        return "expected no date or time; write it in quotes"
    return None


def parse_value(text: str) -> Any:
    """Read the right-hand side of ``key=value`` as TOML does; a bare word is a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # TOMLDecodeError, or an integer too long to read
        return text
    return table["value"] if len(table) == 1 else text


def parse_scalar(text: str) -> Scalar:
    """Read a number, a truth value or a string; other kinds of TOML values become strings.

    Whole numbers of more than 64 bits become floats, or strings where they are too large.
    """
    value = parse_value(text)
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            return text
    return value if isinstance(value, bool | int | float | str) else text


_SELECTOR = re.compile(r"^(?P<name>[^\[\]=]+?)(?:\[(?P<pairs>[^\[\]]*)\])?$")


def parse_selector(text: str) -> Entry:
    """Read ``name`` or ``name[key=value,…]``.

    Raises:
        UserError: The text has another form.
    """
    match = _SELECTOR.match(text.strip())
    if not match:
        raise UserError(f"'{text}' is not a selector; write name or name[key=value,key=value]")
    pinned: dict[str, Scalar] = {}
    for pair in filter(None, (match["pairs"] or "").split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"'{pair}' in '{text}' is not key=value")
        if key.strip() in pinned:
            raise UserError(f"'{text}' sets {key.strip()} twice")
        pinned[key.strip()] = parse_scalar(value.strip())
    return Entry(text.strip(), match["name"].strip(), pinned)


def competitor_label(selector: str, name: str) -> str:
    """Return a competitor's label: its selector, with the backend's name for a plug-in file.

    In older records the label of a plug-in file begins with the file's path.
    """
    optimizer, bracket, pinned = selector.partition("[")
    return f"{name}{bracket}{pinned}" if optimizer.strip().endswith(".py") else selector


def split_selectors(text: str) -> list[str]:
    """Split a comma-separated list of selectors at the commas outside brackets."""
    parts = re.findall(r"(?:[^,\[]|\[(?:[^\[\]]|\[[^\[\]]*\]?)*\]?)+", text)
    return [part.strip() for part in parts if part.strip()]


_LISTED = re.compile(r"(?P<name>[^\[\]=]+)\[(?P<pairs>[^\[\]]*\[.*)\]", re.DOTALL)

_MOST_CONFIGURATIONS = 1_000
"""That one selector may name; each becomes a competitor with trials of its own."""


def expand_lists(text: str) -> list[str]:
    """Write out the lists of values of a selector: ``sgd[lr=[0.1,0.2],momentum=0]``.

    Returns:
        A selector for each combination of values, the first list's changing last; the text itself
        where it has no list.

    Raises:
        UserError: A list is empty, has an empty place or the same value twice, or there are too
            many combinations.
    """
    match = _LISTED.fullmatch(text.strip())
    if not match:
        return [text]
    written: list[list[str]] = []
    for pair in split_selectors(match["pairs"]):
        key, _, value = pair.partition("=")
        inner = re.fullmatch(r"\[([^\[\]]*)\]", value.strip())
        if not inner:
            written.append([pair])
            continue
        values = [each.strip() for each in inner[1].split(",")]
        if not all(values):
            raise UserError(f"'{pair}' in '{text}': write at least one value, and one between "
                            f"two commas: {key.strip()}=[value,value]")
        if len({repr(parse_scalar(each)) for each in values}) < len(values):
            raise UserError(f"'{pair}' in '{text}' lists a value twice")
        written.append([f"{key.strip()}={each}" for each in values])
    number = math.prod(map(len, written))
    if number > _MOST_CONFIGURATIONS:
        raise UserError(f"'{shortened(text, 200)}' names {number:,} configurations; at most "
                        f"{_MOST_CONFIGURATIONS:,}")
    return [f"{match['name']}[{','.join(pairs)}]" for pairs in itertools.product(*written)]


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm between two positive bounds; integers if the default is one."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """Uniform between two bounds; integers, both bounds included, if the default is one."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """Each option as likely as the others."""

    options: tuple[Scalar, ...]


Distribution = LogUniform | Uniform | Choice


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter: its default, its meaning and, if it is tuned, its search distribution.

    ``wide`` is the distribution in the wide space of an optimizer that declares two; without it
    both are the same. A number must be at least ``least``, above ``above``, and below ``below``.
    """

    default: Scalar
    meaning: str
    search: Distribution | None = None
    options: tuple[Scalar, ...] = ()
    wide: Distribution | None = None
    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf

    @property
    def allowed(self) -> tuple[Scalar, ...]:
        """The allowed values: ``options``, else those that the search chooses from; () for any."""
        if self.options or not isinstance(self.search, Choice):
            return self.options
        if self.wide is None:
            return self.search.options
        more = self.wide.options if isinstance(self.wide, Choice) else ()
        return tuple(dict.fromkeys((*self.search.options, *more))) if more else ()


def coerce(where: str, value: Scalar, knob: Hyperparameter) -> Scalar:
    """Return a value in the type of a hyperparameter's default: an int serves as a float.

    Args:
        where: What the error message begins with.
        value: The value of a user, a preset or a search.
        knob: The hyperparameter.

    Raises:
        UserError: The value is of another type than the default, not finite, out of its limits or
            not among its options.
    """
    kind, options = type(knob.default), knob.allowed
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if kind is str and str(value) in options:  # an option that reads like a number
        value = str(value)
    if type(value) is not kind:
        raise UserError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number")
    if isinstance(value, int | float) and not (
            knob.least <= value < knob.below and value > knob.above):
        limits = ((knob.least, "of at least"), (knob.above, "above"), (knob.below, "below"))
        raise UserError(f"{where}: expected a number " + " and ".join(
            f"{words} {limit:g}" for limit, words in limits if math.isfinite(limit)))
    if options and value not in options:
        raise UserError(f"{where}: expected one of {', '.join(map(str, options))}")
    return value


def require_positive(owner: str, **sizes: int) -> None:
    """Check that all sizes are positive integers."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{owner}: {name} = {size!r} must be a positive integer")


def require_natural(owner: str, **sizes: int) -> None:
    """Check that all sizes are integers of at least 0."""
    for name, size in sizes.items():
        if type(size) is not int or size < 0:
            raise UserError(f"{owner}: {name} = {size!r} must be an integer of at least 0")


def require_divisor(owner: str, **sizes: int) -> None:
    """Check that the second of two positive integers divides the first."""
    require_positive(owner, **sizes)
    (whole, size), (part, divisor) = sizes.items()
    if size % divisor:
        raise UserError(f"{owner}: {part} = {divisor} must divide {whole} = {size}")


def require_at_least(owner: str, least: float, **values: float) -> None:
    """Check that all values are finite numbers of at least ``least``."""
    for name, value in values.items():
        if type(value) not in (int, float) or not least <= value < math.inf:
            raise UserError(f"{owner}: {name} = {value!r} must be a number of at least {least:g}")
