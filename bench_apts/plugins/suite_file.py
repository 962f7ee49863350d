"""Suites read from TOML: validated once, every mistake named with file, key and remedy.

A table ``[variant.NAME]`` of a suite's file overrides some of its keys.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec
from msgspec import Struct

from bench_apts.core import configuration
from bench_apts.core.errors import UserError, unknown
from bench_apts.core.spec import Suite
from bench_apts.tasks import named_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from msgspec.structs import FieldInfo

Table = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_DIVIDING = frozenset({"validation", "partition", "augment", "workers"})
"""Keys of [data] that leave the data set as it is."""

_MEASURED = "code_sha256"
"""Key of a suite that no file gives: it is measured."""


def split(name: str) -> tuple[str, str]:
    """Return the suite, a name or a TOML file, and the variant that ``suite@variant`` asks for.

    The variant is "" where none is asked for; an @ in a file's path asks for none.
    """
    suite, at, variant = name.rpartition("@")
    if not at or name.endswith(".toml"):
        return name, ""
    return suite, variant


def load(path: Path, overrides: tuple[str, ...] = (), variant: str = "") -> Suite:
    """Read and validate a suite, or one of its variants.

    Args:
        path: The TOML file.
        overrides: ``suite.key.subkey=value`` as given to ``--set``.
        variant: The variant's name; "" for the suite itself.

    Raises:
        UserError: The file cannot be read, is not TOML, or a key is missing, unknown or of the
            wrong type, in the suite or in any of its variants, or the variant does not exist; the
            message names the file, all such keys and what was expected.
    """
    return _made(path, _read(path), overrides, variant)


def load_all(path: Path) -> list[Suite]:
    """Read and validate a suite and all its variants, in the order of the file.

    Raises:
        UserError: As ``load``.
    """
    tables = _read(path)
    return [_made(path, tables, (), variant) for variant in ("", *tables.variants)]


class _Tables(NamedTuple):
    """A suite's tables without its variants, these by name, and what is wrong with them."""

    plain: Table
    variants: dict[str, Table]
    wrong: list[str]


def _read(path: Path) -> _Tables:
    plain = configuration.read_toml(path, "suite")
    _require_storable(str(path), plain)
    variants, wrong = _pop_variants(plain)
    for name, table in variants.items():
        wrong += _mistakes(table, Suite, f"variant.{name}", whole=False)
    return _Tables(plain, variants, wrong)


def _made(path: Path, tables: _Tables, overrides: tuple[str, ...], variant: str) -> Suite:
    plain, variants, wrong = tables.plain, tables.variants, [*tables.wrong]
    if variant and variant not in variants:
        error = unknown(f"variant of suite {plain.get('name', '')}", variant, variants)
        raise UserError(f"{path}: {'; '.join([*wrong, str(error)])}")
    raw = _apply(plain, variant, variants[variant]) if variant else plain
    for override in overrides:
        _override(raw, override)
    where = f"{path} (after --set {' '.join(overrides)})" if overrides else str(path)
    _require_storable(where, raw)
    wrong += [*_mistakes(raw, Suite, ""), *_contradictions(raw)]
    if "@" in str(raw.get("name")).removesuffix(f"@{variant}"):
        wrong.append("key 'name': '@' stands before the name of a variant; leave it out")
    if wrong:
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(wrong))}")
    # Data and model from a source take the names of suite and source; a variant that leaves the
    # data set as it is shares the suite's.
    other_data = {*variants.get(variant, {}).get("data", {})} - _DIVIDING
    names = {"data": raw["name"] if other_data else plain["name"],
             "model": raw["model"].get("source")}
    named = {table: {**raw[table], "name": name} for table, name in names.items()
             if "source" in raw[table]}
    return msgspec.convert(raw | named | ({"loss": "task"} if "task" in raw else {}), Suite)


def changed(suite: Suite, overrides: tuple[str, ...], where: str) -> Suite:
    """Return a suite that was read before, as a study holds it, with some of its keys changed.

    Args:
        suite: The suite.
        overrides: As in ``load``.
        where: What the message of an error begins with, for instance the study's file.

    Raises:
        UserError: A key is unknown or its value wrong; names all such keys.
    """
    raw = msgspec.to_builtins(suite)
    code = {_MEASURED: raw.pop(_MEASURED)} if suite.code_sha256 else {}
    if suite.task:
        del raw["loss"]
    names = {table: raw[table].pop("name") for table in suite.sources if "name" in raw[table]}
    for override in overrides:
        _override(raw, override)
    where = f"{where} (after --set {' '.join(overrides)})"
    _require_storable(where, raw)
    if wrong := [*_mistakes(raw, Suite, ""), *_contradictions(raw)]:
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(wrong))}")
    named = {table: {**raw[table], "name": raw[table]["source"] if table == "model" else name}
             for table, name in names.items() if "source" in raw[table]}
    return msgspec.convert(raw | named | code | ({"loss": "task"} if suite.task else {}), Suite)


def variant_names(path: Path) -> list[str]:
    """Return the names of a suite's variants, as the file has them.

    Raises:
        UserError: The file cannot be read or is not TOML.
    """
    return [*_pop_variants(configuration.read_toml(path, "suite"))[0]]


def _require_storable(where: str, tables: Table) -> None:
    if wrong := configuration.find_unstorable_value(tables):
        raise UserError(f"{where}: {wrong}")


def _pop_variants(raw: Table) -> tuple[dict[str, Table], list[str]]:
    """Remove the variants from a suite's tables.

    Returns:
        The variants by name, and what is wrong with their names and keys.
    """
    found = raw.pop("variant", {})
    if not isinstance(found, dict):
        return {}, ["key 'variant': write the keys that a variant changes in [variant.NAME]"]
    wrong = []
    for name, table in found.items():
        if not _NAME.fullmatch(name):
            wrong.append(f"key 'variant.{name}': a variant's name begins with a letter or digit "
                         "and has only letters, digits, '.', '_' and '-'")
        elif not isinstance(table, dict):
            wrong.append(f"key 'variant.{name}': expected a table, [variant.{name}]")
        elif "name" in table:
            wrong.append(f"key 'variant.{name}.name': the variant is called SUITE@{name}; leave "
                         "it out")
    return {name: table for name, table in found.items() if isinstance(table, dict)}, wrong


def _apply(raw: Table, name: str, table: Table) -> Table:
    """Return a suite's tables as a variant, by its name and table, changes them."""
    changed = _merged(raw, table)
    changed["name"] = f"{raw.get('name', '')}@{name}"
    if "summary" not in table:
        changes = ", ".join(f"{key} = {value}" for key, value in _leaves(table, "")
                            if not key.startswith("target."))
        changed["summary"] = f"{raw.get('summary', '')}, with {changes}"
    target, own = changed.get("target"), table.get("target", {})
    if isinstance(target, dict) and isinstance(own, dict) and "provenance" not in own:
        # Whatever was measured, it was not on this problem.
        changed["target"] = {**target, "provenance": {
            "optimizer": "none", "trials": 0, "seeds": 0,
            "note": ("provisional: chosen by hand" if "value" in own else
                     f"provisional: the target of {raw.get('name', '')}")}}
    return changed


def _merged(raw: Table, table: Table) -> Table:
    """Return tables in which those of ``table`` replace values, key by key."""
    result = {**raw}
    for key, value in table.items():
        other = raw.get(key)
        result[key] = (_merged(other, value) if isinstance(value, dict) and isinstance(other, dict)
                       else value)
    return result


def _leaves(table: Table, before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield before + key, value


def _override(raw: Table, assignment: str) -> None:
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
    table[names[-1]] = configuration.parse_value(value.strip())


@functools.cache
def _fields(kind: type[Struct]) -> dict[str, FieldInfo]:
    """Return a table's keys; evaluating their annotations takes most of the time of a check."""
    return {field.name: field for field in msgspec.structs.fields(kind)
            if field.name != _MEASURED}


def _mistakes(raw: Table, kind: type[Struct], path: str, whole: bool = True) -> Iterator[str]:
    """Yield every missing, unknown or wrong key of a table, and of the tables in it.

    Args:
        raw: The table as read.
        kind: What it should be.
        path: Dotted keys that lead to it.
        whole: Whether keys may be missing only if they have defaults.
    """
    fields = _fields(kind)
    before = f"{path}." if path else ""
    for name in raw:
        if name not in fields:
            yield str(unknown("key" + (f" in [{path}]" if path else ""), name, fields))
    for name, field in fields.items():
        if name not in raw:
            if field.required and whole:
                yield f"key '{before}{name}' is missing"
            continue
        table = next((each for each in get_args(field.type) or (field.type,)
                      if isinstance(each, type) and issubclass(each, Struct)), None)
        if table and isinstance(raw[name], dict):
            yield from _mistakes(raw[name], table, before + name, whole)
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


def _contradictions(raw: Table) -> Iterator[str]:
    """Yield what is wrong about keys that exclude or need one another."""
    tables = {name: table for name in ("data", "model", "task")
              if isinstance(table := raw.get(name), dict)}
    for name, table in tables.items():
        if ("name" in table) == ("source" in table):
            yield f"key '{name}': write one of name and source"
    data = tables.get("data", {})
    if data and "source" not in data:
        yield from (f"key 'data.{key}' belongs to a source, which is missing"
                    for key in ("options", "mean", "std", "stream", "workers") if key in data)
        if data.get("validation", 0) == 0:
            yield "key 'data.validation' is missing: how many training samples validate"
    target = raw.get("target")
    if isinstance(target, dict) and all(
            type(target.get(key)) in (int, float) for key in ("floor", "value")):
        worse = target["value"] - target["floor"]
        if (worse if target.get("direction") == "min" else -worse) < 0:
            yield (f"key 'target.floor': nothing is better than it, and target.value = "
                   f"{target['value']:g} is")
    if "partition" in data and "stream" in data:
        yield ("key 'data.partition': leave it out, the labels of data that is streamed are not "
               "known beforehand")
    if "workers" in data and "stream" not in data:
        yield "key 'data.workers' belongs to data.stream, which is missing"
    if isinstance(data.get("augment"), dict) and not any(data["augment"].values()):
        yield "key 'data.augment': write one of crop, flip and cutout, or leave it out"
    task = tables.get("task")
    if raw.get("loss", "cross_entropy") != "cross_entropy" or (task and "loss" in raw):
        yield "key 'loss': leave it out, [task] says what is trained"
    if (task and isinstance(task.get("name"), str)
            and task["name"] not in (known := named_tasks.names())):
        yield str(unknown("task", task["name"], known))
