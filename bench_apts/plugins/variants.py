"""Variants of a suite: tables ``[variant.NAME]`` of its file that override some of its keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

Table = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def split(name: str) -> tuple[str, str]:
    """Return the suite, a name or a TOML file, and the variant that ``suite@variant`` asks for.

    The variant is "" where none is asked for; an @ in a file's path asks for none.
    """
    suite, at, variant = name.rpartition("@")
    if not at or name.endswith(".toml"):
        return name, ""
    return suite, variant


def tables(raw: Table) -> tuple[dict[str, Table], list[str]]:
    """Take the variants out of a suite's tables.

    Args:
        raw: The file's tables, whose ``variant`` is removed.

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


def chosen(raw: Table, found: dict[str, Table], name: str) -> Table:
    """Return a suite's tables as a variant changes them; those of the suite for "".

    Args:
        raw: The suite's tables.
        found: Its variants.
        name: The variant.

    Raises:
        UserError: There is none of the name.
    """
    if not name:
        return raw
    if name not in found:
        raise unknown(f"variant of suite {raw.get('name', '')}", name, found)
    table = found[name]
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

