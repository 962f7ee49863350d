"""A suite read from TOML: validated once, every mistake named with file, key and remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec import Struct

from bench_apts import toml
from bench_apts.errors import UserError, unknown
from bench_apts.selectors import parse_value
from bench_apts.spec import Suite
from bench_apts.tasks import installed
from bench_apts.tasks.ready import READY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load(path: Path, overrides: tuple[str, ...] = ()) -> Suite:
    """Reads and validates a suite.

    Args:
        path: The TOML file.
        overrides: ``suite.key.subkey=value`` as given to ``--set``.

    Raises:
        UserError: The file cannot be read, is no TOML, or a key is missing, unknown or of the
            wrong kind; the message names the file, all such keys and what was expected.
    """
    raw = toml.read(path, "suite")
    for override in overrides:
        _override(raw, override)
    where = f"{path} (after --set {' '.join(overrides)})" if overrides else str(path)
    wrong = toml.unwritable(raw)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    wrong_keys = [*_mistakes(raw, Suite, ""), *_contradictions(raw)]
    if wrong_keys:
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(wrong_keys))}")
    return msgspec.convert(_named(raw), Suite)


def _named(raw: dict[str, Any]) -> dict[str, Any]:
    """Name the data and the model that a suite takes from a source."""
    named = {**raw}
    for table, name in (("data", raw["name"]), ("model", raw["model"].get("source"))):
        if "source" in raw[table]:
            named[table] = {**raw[table], "name": name}
    return named | ({"loss": "task"} if "task" in raw else {})


def _contradictions(raw: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong about keys that exclude or need one another."""
    tables = {name: table for name in ("data", "model", "task")
              if isinstance(table := raw.get(name), dict)}
    for name, table in tables.items():
        if ("name" in table) == ("source" in table):
            yield f"key '{name}': write one of name and source"
    data = tables.get("data", {})
    if data and "source" not in data:
        yield from (f"key 'data.{key}' belongs to a source, which is missing"
                    for key in ("options", "mean", "std") if key in data)
        if data.get("validation", 0) == 0:
            yield "key 'data.validation' is missing: how many training samples validate"
    task = tables.get("task")
    if raw.get("loss", "cross_entropy") != "cross_entropy" or (task and "loss" in raw):
        yield "key 'loss': leave it out, [task] says what is trained"
    if (task and isinstance(task.get("name"), str) and task["name"] not in READY
            and task["name"] not in installed.names()):
        yield str(unknown("task", task["name"], installed.names()))


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


def _mistakes(raw: Any, kind: type[Struct], path: str) -> Iterator[str]:
    """Yield every missing, unknown or wrong key of a table, and of the tables in it.

    Args:
        raw: The table as read.
        kind: What it should be.
        path: Dotted keys that lead to it.
    """
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    before = f"{path}." if path else ""
    for name in raw:
        if name not in fields:
            yield str(unknown("key" + (f" in [{path}]" if path else ""), name, fields))
    for name, field in fields.items():
        if name not in raw:
            if field.required:
                yield f"key '{before}{name}' is missing"
            continue
        table = next((each for each in get_args(field.type) or (field.type,)
                      if isinstance(each, type) and issubclass(each, Struct)), None)
        if table and isinstance(raw[name], dict):
            yield from _mistakes(raw[name], table, before + name)
            continue
        try:
            msgspec.convert(raw[name], field.type)
        except msgspec.ValidationError as error:
            yield _explain(error, before + name, field.type)


def _explain(error: msgspec.ValidationError, key: str, kind: Any) -> str:
    """Turn msgspec's message about a key's value into one that names the key."""
    field, _, where = str(error).partition(" - at ")
    field = field.replace(" | null", "")
    key += where.strip("`").removeprefix("$")
    choice = re.search(r"Invalid enum value (.+)", field)
    if choice:
        options = [option for each in (kind, *get_args(kind)) for option in get_args(each)
                   if isinstance(option, str)]
        return f"key '{key}': expected {' or '.join(options)}, got {choice[1]}"
    return f"key '{key}': {field[0].lower()}{field[1:]}"
