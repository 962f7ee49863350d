"""TOML files that users write, read or refused in one clear line."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError, shortened

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 2**16
"""Size above which a file is none that somebody wrote; long keys take quadratic time to read."""

_DEEPEST = 32
"""Tables and lists inside one another; readers of records, and Python, have bounds too."""


def read(path: Path, what: str) -> dict[str, Any]:
    """Returns the tables of a file.

    Args:
        path: The file.
        what: What it holds, for the message, for instance ``"suite"``.

    Raises:
        UserError: The file cannot be read, is too large or is no TOML.
    """
    try:
        if path.is_fifo():  # nobody may ever write to it
            raise UserError(f"cannot read {what} {path}: it is a pipe, name a plain file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"{path} has more than {_MOST_BYTES:,} bytes, which no {what} needs")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: bytes, long integers
        raise UserError(f"{path} is not valid TOML: {error}") from error


def unwritable(table: dict[str, Any]) -> str | None:
    """Looks for a value that JSON, and so a record, cannot hold; None if there is none.

    Returns:
        What is wrong with the first such value, in the form ``key 'a.b': …``.
    """
    pending: list[tuple[str, Any, int]] = [("", table, 0)]
    while pending:
        key, value, depth = pending.pop()
        wrong = _wrong(value, depth)
        if wrong:
            return f"key '{shortened(key, 200)}': {wrong}"
        items = (value.items() if isinstance(value, dict)
                 else enumerate(value) if isinstance(value, list) else ())
        pending += [(f"{key}.{name}" if key else str(name), item, depth + 1)
                    for name, item in items]
    return None


def _wrong(value: Any, depth: int) -> str | None:
    if depth > _DEEPEST:
        return f"nested deeper than {_DEEPEST} levels"
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        return "expected a number of at most 64 bits"
    if isinstance(value, dt.date | dt.time):
        return "expected no date or time; write it in quotes"
    return None
