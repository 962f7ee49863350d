"""Checks of the options that networks and generated data take from a suite.

Each takes the options by name and the owner for the message, such as ``"model 'gpt'"``, and raises
a UserError for values out of range.
"""

from __future__ import annotations

import math

from bench_apts.core.errors import UserError


def positive(owner: str, **sizes: int) -> None:
    """Check that all sizes are positive integers."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"{owner}: {name} = {size!r} must be a positive integer")


def natural(owner: str, **sizes: int) -> None:
    """Check that all sizes are integers of at least 0."""
    for name, size in sizes.items():
        if type(size) is not int or size < 0:
            raise UserError(f"{owner}: {name} = {size!r} must be an integer of at least 0")


def divides(owner: str, **sizes: int) -> None:
    """Check that the second of two positive integers divides the first."""
    positive(owner, **sizes)
    (whole, size), (part, divisor) = sizes.items()
    if size % divisor:
        raise UserError(f"{owner}: {part} = {divisor} must divide {whole} = {size}")


def at_least(owner: str, least: float, **values: float) -> None:
    """Check that all values are finite numbers of at least ``least``."""
    for name, value in values.items():
        if type(value) not in (int, float) or not least <= value < math.inf:
            raise UserError(f"{owner}: {name} = {value!r} must be a number of at least {least:g}")
