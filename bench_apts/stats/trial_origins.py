"""What of trials' environments bears on times, and in what environments differ.

Everything in the environment card counts except for a few keys, so that a field that is added
counts as well. A field that a record lacks, as an earlier version wrote it, is unknown and differs
from none.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from bench_apts.core.records import TrialRecord

    Key = tuple[str, str]

CODE_TRAITS = frozenset({"commit", "dirty", "bench-apts"})
"""Names of traits that say which bench-apts ran; studies of two of its versions are compared."""

SIZE_TRAITS = frozenset({"nodes"})
"""Names of traits that depend on the world size."""

_HARMLESS = frozenset({"beside", "slurm", "commit_unknown"})
_PACKAGES = frozenset({"versions", "requires"})
"""Tables of which each record may have other keys; in all others a missing key means unset."""

_MOST_NAMED = 4
_MOST_VALUES = 4


class TrialOrigin(NamedTuple):
    """The environment of a trial: values by table ("" for none) and name, and its tables."""

    values: dict[Key, str]
    tables: frozenset[str]

    def value(self, key: Key) -> str | None:
        """Return a value; None if it is unknown."""
        found = self.values.get(key)
        if found is None and key[0] in self.tables and key[0] not in _PACKAGES:
            return "unset"
        return found


def origin_cards(records: Iterable[TrialRecord]) -> list[bytes]:
    """Return for each trial its environment card as JSON, with torch's switches in it."""
    return [origin_card(record.header.environment, record.start.numerics if record.start else {})
            for record in records]


def origin_card(
    environment: Mapping[str, Any], numerics: Mapping[str, Any] | None = None
) -> bytes:
    """Return an environment card as JSON, as ``origin_differences`` reads it."""
    whole = {**environment, "numerics": numerics} if numerics else environment
    return msgspec.json.encode(whole)


def origin_differences(written: Iterable[bytes],
                       ignoring: Collection[str] = ()) -> dict[str, dict[str, int]]:
    """Find in what environments differ.

    Args:
        written: Cards as ``origin_cards`` returns them.
        ignoring: Names that do not count.

    Returns:
        How many have each value, by the name of what differs; empty if they are alike.
    """
    numbers = [(_origin(each), number) for each, number in Counter(written).items()]
    if len(numbers) < 2:
        return {}
    found: dict[str, dict[str, int]] = {}
    for key in dict.fromkeys(key for origin, _ in numbers for key in origin.values):
        counts: Counter[str] = Counter()
        for origin, number in numbers:
            value = origin.value(key)
            if value is not None:
                counts[value] += number
        if len(counts) > 1 and key[1] not in ignoring:
            found[_title(key)] = dict(sorted(counts.items()))
    return found


def unlike(records: Iterable[TrialRecord], ignoring: Collection[str] = ()) -> str:
    """Say in what the environments of trials differ: ``torch (2.14.1, 2.15.0)``; "" if in nothing.

    Args:
        records: The trials.
        ignoring: Names that do not count.
    """
    return describe_origins(origin_differences(origin_cards(records), ignoring))


def describe_origins(found: Mapping[str, Mapping[str, int]]) -> str:
    """Write ``origin_differences`` without the counts."""
    parts = [f"{name} ({', '.join(_first(list(values)))})"
             for name, values in list(found.items())[:_MOST_NAMED]]
    more = len(found) - _MOST_NAMED
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def count_origins(found: Mapping[str, Mapping[str, int]]) -> str:
    """Write ``origin_differences`` with the number of trials for each value."""
    return "; ".join(
        f"{name}: " + ", ".join(_first([f"{value} ({number} trial{'s' * (number != 1)})"
                                        for value, number in values.items()]))
        for name, values in found.items())


def group_by_origin(
        records: Sequence[TrialRecord]) -> dict[tuple[tuple[str, str], ...], list[TrialRecord]]:
    """Group trials by what differs in their environments: names and values, with the trials."""
    written = origin_cards(records)
    names = origin_differences(written)
    found: dict[tuple[tuple[str, str], ...], list[TrialRecord]] = {}
    for record, each in zip(records, written, strict=True):
        found.setdefault(_values(each, tuple(names)), []).append(record)
    return found


@lru_cache(maxsize=4096)
def _values(written: bytes, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    values = {_title(key): value for key, value in _origin(written).values.items()}
    return tuple((name, values.get(name, "unset or unknown")) for name in names)


@lru_cache(maxsize=4096)
def _origin(written: bytes) -> TrialOrigin:
    values: dict[Key, str] = {}
    tables = set()
    for key, value in msgspec.json.decode(written).items():
        if key in _HARMLESS:
            continue
        if key == "nodes":
            if isinstance(value, list) and len(value) > 1:
                values["", key] = _text(value)
        elif key == "gpus" and isinstance(value, list):  # not how many are visible
            values["", key] = _text(sorted({str(name) for name in value}))
        elif isinstance(value, dict):
            tables.add(key)
            values |= {(key, str(name)): _text(entry) for name, entry in value.items()}
        else:
            values["", key] = _text(value)
    return TrialOrigin(values, frozenset(tables))


def _title(key: Key) -> str:
    table, name = key
    return name if table else name.replace("_", " ")


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " + ".join(_text(entry) for entry in value)
    if isinstance(value, dict):
        return _text(value["hostname"]) if "hostname" in value else str(value)
    return str(value)


def _first(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _MOST_VALUES
    return [*texts[:_MOST_VALUES], *([f"{more} more"] if more > 0 else [])]
