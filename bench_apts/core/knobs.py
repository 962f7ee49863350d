"""Hyperparameters: their defaults, the values they accept and the ranges that tuning searches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.core.spec import Scalar


@dataclass(frozen=True)
class LogUniform:
    """Search distribution: uniform in the logarithm between two positive bounds.

    A hyperparameter whose default is an int gets integers, both bounds included.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """Search distribution: uniform between two bounds.

    A hyperparameter whose default is an int gets integers, both bounds included.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """Search distribution: each option as likely as the others."""

    options: tuple[Scalar, ...]


Distribution = LogUniform | Uniform | Choice


@dataclass(frozen=True)
class Hyperparameter:
    """A knob: its default, what it means and, if tuning may turn it, its distribution.

    ``wide`` is the distribution in the wide space of an optimizer that declares two; a knob
    without one has the same in both. A number is ``least`` or more, more than ``above``, and less
    than ``below``.
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
        """The values it may take: ``options``, else what it is chosen from; empty for any."""
        if self.options or not isinstance(self.search, Choice):
            return self.options
        if self.wide is None:
            return self.search.options
        more = self.wide.options if isinstance(self.wide, Choice) else ()
        return tuple(dict.fromkeys((*self.search.options, *more))) if more else ()



def coerce(where: str, value: Scalar, knob: Hyperparameter) -> Scalar:
    """Return a value in the type of the knob's default: an int serves as a float.

    Args:
        where: What the error message begins with.
        value: What a user, a preset or a search asks for.
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
