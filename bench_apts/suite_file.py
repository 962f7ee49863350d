"""A suite read from TOML: validated once, every mistake named with file, key and remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from bench_apts import toml
from bench_apts.errors import UserError, unknown
from bench_apts.selectors import parse_value
from bench_apts.spec import Suite

if TYPE_CHECKING:
    from pathlib import Path


def load(path: Path, overrides: tuple[str, ...] = ()) -> Suite:
    """Reads and validates a suite.

    Args:
        path: The TOML file.
        overrides: ``suite.key.subkey=value`` as given to ``--set``.

    Raises:
        UserError: The file cannot be read, is no TOML, or a key is missing, unknown or of the
            wrong kind; the message names the file, the key and what was expected.
    """
    raw = toml.read(path, "suite")
    for override in overrides:
        _override(raw, override)
    where = f"{path} (after --set {' '.join(overrides)})" if overrides else str(path)
    wrong = toml.unwritable(raw)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    try:
        return msgspec.convert(raw, Suite)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from error


def _override(raw: dict[str, Any], assignment: str) -> None:
    key, equals, value = assignment.partition("=")
    scope, *names = key.strip().split(".")
    if not equals or scope != "suite" or not all(names) or not names:
        raise UserError(f"--set {assignment}: write suite.KEY=VALUE, for instance "
                        "suite.batch_size=256 or suite.budget.samples=10000")
    table = raw
    for name in names[:-1]:
        child = table.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {assignment}: suite.{name} holds a value, not a table")
        table = child
    table[names[-1]] = parse_value(value.strip())


def _explain(error: msgspec.ValidationError) -> str:
    """Turns msgspec's message into one that names the key and, for a misspelt one, its like."""
    text = str(error)
    field, _, where = text.partition(" - at ")
    path = where.strip("`").removeprefix("$").lstrip(".")
    misspelt = re.search(r"unknown field `(.+)`", field, re.DOTALL)
    if misspelt:
        names = [f.name for f in msgspec.structs.fields(_type_at(path))]
        return str(unknown("key" + (f" in [{path}]" if path else ""), misspelt[1], names))
    missing = re.search(r"missing required field `(.+)`", field)
    if missing:
        return f"key '{path + '.' if path else ''}{missing[1]}' is missing"
    choice = re.search(r"Invalid enum value (.+)", field)
    if choice:
        return f"key '{path}': expected {' or '.join(get_args(_type_at(path)))}, got {choice[1]}"
    return f"key '{path}': {field[0].lower()}{field[1:]}"


def _type_at(path: str) -> Any:
    """Returns the type that a suite has at ``path``, for instance at ``target.direction``."""
    kind: Any = Suite
    for name in filter(None, path.split(".")):
        kind = {field.name: field.type for field in msgspec.structs.fields(kind)}[name]
    return kind
