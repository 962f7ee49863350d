"""The check of sizes that all networks here share."""

from __future__ import annotations

from bench_apts.errors import UserError


def positive(model: str, **sizes: int) -> None:
    """Check that all sizes are positive integers.

    Raises:
        UserError: One is not.
    """
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise UserError(f"model '{model}': {name} = {size!r} must be a positive integer")


def divides(model: str, **sizes: int) -> None:
    """Check that the second of two sizes divides the first.

    Raises:
        UserError: It does not, or one of them is not a positive integer.
    """
    positive(model, **sizes)
    (whole, size), (part, divisor) = sizes.items()
    if size % divisor:
        raise UserError(f"model '{model}': {part} = {divisor} must divide {whole} = {size}")
