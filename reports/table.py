"""A table twice over: what the page shows, and the plain numbers that its CSV file holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Plain = str | int | float | bool | None

MOST_ROWS = 100
"""A table's rows on the page; its CSV file has all, and a large study stays a small page."""


@dataclass(frozen=True)
class Value:
    """One entry.

    Attributes:
        text: What is shown.
        detail: A second, smaller line, for instance an interval.
        numbers: The same as plain numbers in base units (seconds, bytes), by CSV column.
        kind: A CSS class: ``number`` (the default), ``name``, ``words``, ``best``, ``mono`` or
            ``long``: text of any length, broken anywhere.
        label: The optimizer whose legend mark stands in front, if any.
        badge: A short remark set off from the text.
    """

    text: str
    detail: str = ""
    numbers: Mapping[str, Plain] = field(default_factory=dict)
    kind: str = "number"
    label: str = ""
    badge: str = ""

    @property
    def key(self) -> str | None:
        """What a column is sorted by: the first number; "" for a miss, None to go by the text."""
        first = next(iter(self.numbers.values()), self.text)
        if isinstance(first, str | bool):
            return None
        # No number there at all, or an infinite one, is a miss: it comes last either way.
        return f"{first:.7g}" if first is not None and math.isfinite(first) else ""


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: Its CSV file's name without suffix; tables of several suites share one.
        title: What it holds.
        caption: How to read it.
        head: Column titles, each with a smaller second line (often the unit) or "".
        rows: Entries, as many in each row as there are titles.
        breaks: Indices of the rows that open a new group, set off by a line.
        rest: Plain numbers of rows that follow ``MOST_ROWS`` others, which no page shows.
    """

    name: str
    title: str
    caption: str
    head: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Value, ...], ...]
    breaks: frozenset[int] = frozenset()
    rest: Sequence[Mapping[str, Plain]] = ()

    @property
    def size(self) -> int:
        """Rows of the CSV file."""
        return len(self.rows) + len(self.rest)

    def records(self) -> list[dict[str, Plain]]:
        """Returns the rows as plain numbers by CSV column."""
        merged = []
        for row in self.rows:
            record: dict[str, Plain] = {}
            for value in row:
                record |= value.numbers
            merged.append(record)
        return [*merged, *map(dict, self.rest)]


def csv(records: Iterable[Mapping[str, Plain]]) -> bytes:
    """Writes records as CSV: numbers in full precision, no index, Unix line ends."""
    return frame_csv(pd.DataFrame(list(records)))


def frame_csv(frame: pd.DataFrame) -> bytes:
    """Writes a data frame as CSV in the same way."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode()


def name(label: str, *, badge: str = "", **numbers: Plain) -> Value:
    """An optimizer's name with its legend mark; opens a row."""
    return Value(label, kind="name", label=label, badge=badge,
                 numbers={"optimizer": label} | numbers)


def words(text: str, detail: str = "", **numbers: Plain) -> Value:
    """An entry in words, set to the left."""
    return Value(text, detail, numbers, "words")


def mono(text: str, detail: str = "", **numbers: Plain) -> Value:
    """An identifier or a list of settings in fixed width."""
    return Value(text, detail, numbers, "mono")


def number(text: str, detail: str = "", **numbers: Plain) -> Value:
    """A number, set to the right in figures of equal width."""
    return Value(text, detail, numbers)
