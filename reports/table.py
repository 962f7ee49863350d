"""A table in two forms, the texts of the page and the numbers of the CSV file; who is cheapest."""

from __future__ import annotations

import csv
import io
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bench_apts.core import units
from bench_apts.core.currencies import TIME_CURRENCIES, format_cost
from bench_apts.stats.trial_costs import all_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell

Plain = str | int | float | bool | None

MOST_ROWS = 50
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
        return f"{first:.5g}" if first is not None and math.isfinite(first) else ""


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
        """Return the rows as plain numbers by CSV column."""
        merged = []
        for row in self.rows:
            record: dict[str, Plain] = {}
            for value in row:
                record |= value.numbers
            merged.append(record)
        return [*merged, *map(dict, self.rest)]


def csv_bytes(records: Iterable[Mapping[str, Plain]]) -> bytes:
    """Write records as CSV: numbers in full precision, Unix line ends, nothing for an unknown."""
    rows = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)),
                            lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: None if isinstance(value, float) and math.isnan(value) else value
                      for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def frame_csv(frame: pd.DataFrame) -> bytes:
    """Write a data frame in the same way."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode()


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]],
                   rules: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table in Markdown, with all texts escaped.

    Args:
        head: Column titles.
        rows: Texts, as many in each row as there are titles.
        rules: ``---`` or ``---:`` for each column, which align it; all to the left by default.
    """
    titles = list(head)
    return [units.markdown_row(list(map(units.escape_markdown, titles))),
            units.markdown_row(rules or ["---"] * len(titles)),
            *(units.markdown_row(list(map(units.escape_markdown, row))) for row in rows)]


def finite(value: float | None) -> float | None:
    """Return a number as tables keep it: None where it is infinite or there is none."""
    return value if value is not None and math.isfinite(value) else None


def name(label: str, *, badge: str = "", **numbers: Plain) -> Value:
    """Return an optimizer's name with its legend mark, which opens a row."""
    return Value(label, kind="name", label=label, badge=badge,
                 numbers={"optimizer": label} | numbers)


def words(text: str, detail: str = "", **numbers: Plain) -> Value:
    """Return an entry in words, set to the left."""
    return Value(text, detail, numbers, "words")


def mono(text: str, detail: str = "", **numbers: Plain) -> Value:
    """Return an identifier or a list of settings in fixed width."""
    return Value(text, detail, numbers, "mono")


def number(text: str, detail: str = "", **numbers: Plain) -> Value:
    """Return a number, set to the right in figures of equal width."""
    return Value(text, detail, numbers)


ENOUGH = 5
"""Trials below which tables mark an optimizer as having few."""


DecisionVerdict = Literal["clear", "not told apart", "cannot be told", "none", "not judged"]
"""Whether one optimizer wins by the rule of ``stats.verdict``; the trials do not tell it from
others; they are so few that they never could; none hit; or the trials are of environments whose
times do not compare."""


def unstable_winner(group: CellGroup, currency: Currency) -> str:
    """Say how the winner depends on the level of the target; "" if it does not.

    And "" where the trials are of environments whose times do not compare.
    """
    if currency in TIME_CURRENCIES and group.unlike:
        return ""
    found = group.level_stability(currency)
    if found is None or not found.winner_changes:
        return ""
    reached = [(level, sorted(found.winners[level])) for level in group.suite.target.every_level
               if found.winners[level]]
    parts = [f"{units.listing(names)} at "
             + units.listing([units.format_percent(level, 0) for level, _ in run])
             for names, run in itertools.groupby(reached, lambda pair: pair[1])]
    return (f"the winner depends on the level of the target, {group.suite.name} at "
            f"N = {group.ranks}: {', '.join(parts)}")


def rank_by_cost(cells: Sequence[ReportCell], currency: Currency) -> list[ReportCell]:
    """Return the optimizers that reached the target, the cheapest expected cost first.

    Without those that follow another: they shared its search and do not compete with it.
    """
    reached = [cell for cell in cells
               if not cell.search_owner and math.isfinite(cell.ert(currency).cost)]
    return sorted(reached, key=lambda cell: cell.ert(currency).cost)


def shared_search_sentence(cells: Sequence[ReportCell], currency: Currency, device: str) -> str:
    """Say who is not ranked by cost as it shared a search, with its own cost; "" if none."""
    return " ".join(
        f"{cell.label} took over what {cell.search_owner}'s search found and is not ranked by "
        f"cost; the same search at {cell.label}'s own cost of a sample: "
        f"{_own_cost(cell, currency, device)}."
        for cell in cells if cell.search_owner)


def _own_cost(cell: ReportCell, currency: Currency, device: str) -> str:
    if currency == "samples":  # of which it needs as many as the owner of the search
        others: tuple[Currency, ...] = ("cpu_s", "wire_bytes")
        currency = next((one for one in others if all_known(cell.outcomes(), one)
                         and cell.ert(one).total), currency)
    if not all_known(cell.outcomes(), currency):
        return "not known, as no trial of its own counted it"
    found = cell.ert(currency)
    if not found.hits:
        return f"more than {format_cost(currency, found.bound, device)}"
    return f"{format_cost(currency, found.cost, device)} expected"


def hits_of_trials(hits: int, trials: int) -> str:
    """Say how many trials hit: ``0 of 4 reached it``."""
    return f"{hits} of {trials} reached it"


def known(column: str, value: float | None, form: Callable[[float], str], detail: str = "", *,
          absent: str = units.NONE, kind: str = "number") -> Value:
    """Return an entry that shows ``absent``, of this ``kind``, where there is no finite number."""
    if value is None or not math.isfinite(value):
        return Value(absent, detail, {column: None}, kind)
    return Value(form(value), detail, {column: value})


def reached(column: str, value: float, form: Callable[[float], str]) -> Value:
    """Return an entry of a cost to the target, which is infinite where it was missed."""
    return known(column, value, form, absent="no hit", kind="number missed")


def grouped_table(slug: str, title: str, caption: str, head: Sequence[tuple[str, str]],
                  groups: Iterable[Iterable[tuple[Value, ...]]]) -> Table:
    """Return a table with a line before each group of rows."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        breaks.add(len(rows))
        rows += group
    return Table(slug, title, caption, tuple(head), tuple(rows), frozenset(breaks))
