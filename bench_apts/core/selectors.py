"""What users write in one argument: values, and optimizers with pinned hyperparameters."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from bench_apts.core.errors import UserError
from bench_apts.core.spec import Entry, Scalar


def parse_value(text: str) -> Any:
    """Reads the right-hand side of ``key=value`` as TOML does; a bare word is a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # besides TOMLDecodeError: an integer too long to read
        return text
    return table["value"] if len(table) == 1 else text


def parse_scalar(text: str) -> Scalar:
    """Reads a number, a truth value or a string; anything else that TOML knows is a string.

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
    """Reads ``name`` or ``name[key=value,…]``.

    Raises:
        UserError: The text has another form.
    """
    match = _SELECTOR.match(text.strip())
    if not match:
        raise UserError(f"'{text}' is no selector; write name or name[key=value,key=value]")
    pinned: dict[str, Scalar] = {}
    for pair in filter(None, (match["pairs"] or "").split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"'{pair}' in '{text}' is not key=value")
        if key.strip() in pinned:
            raise UserError(f"'{text}' sets {key.strip()} twice")
        pinned[key.strip()] = parse_scalar(value.strip())
    return Entry(text.strip(), match["name"].strip(), pinned)


def split_selectors(text: str) -> list[str]:
    """Splits a comma-separated list of selectors, minding the commas inside brackets."""
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\]?)+", text)
    return [part.strip() for part in parts if part.strip()]
