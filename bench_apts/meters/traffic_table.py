"""The table of a meter: phase, collective and group, with calls, bytes, time, and their text."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bench_apts.core import units

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

_MAX_GROUPS = 4
"""Groups of one size that are shown apart; more become one row."""

_MAX_RANKS = 6
"""Ranks of a group that are written out."""


class TrafficRow(Struct, frozen=True):
    """What one rank issued of one collective in one group and phase.

    In tables of several ranks numbers are means over the ranks that issued any.

    Attributes:
        phase: When.
        collective: For instance ``all_reduce``.
        group: Which ranks, for people.
        ranks: Size of the group.
        calls: How many.
        payload_bytes: Of the logical tensors.
        ideal_bytes: What a rank has to send on any network.
        actual_bytes: What gloo sends; None with other backends.
        seconds: From issue to completion, of the calls that could be timed; None without any.
        untimed: Calls that could not be timed, where time was asked for.
        unmeasured: Why the bytes of some calls are missing.
    """

    phase: str
    collective: str
    group: str
    ranks: int
    calls: float
    payload_bytes: float
    ideal_bytes: float
    actual_bytes: float | None
    seconds: float | None = None
    untimed: float = 0
    unmeasured: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a row is about."""
        return self.phase, self.collective, self.group, self.ranks


@dataclass(frozen=True)
class TrafficTable:
    """Rows, and what is needed to read them.

    Attributes:
        rows: Sorted by phase and bytes.
        steps: How many steps they are of.
        step_seconds: Mean seconds of a step; None where they are not known.
        ranks: How many ranks they are of.
        notes: What else is to be said.
    """

    rows: tuple[TrafficRow, ...]
    steps: int = 0
    step_seconds: float | None = None
    ranks: int = 1
    notes: tuple[str, ...] = ()

    @staticmethod
    def summed(rows: Iterable[TrafficRow]) -> tuple[TrafficRow, ...]:
        """Return the rows sorted, those with the same key added up."""
        found: dict[Hashable, list[TrafficRow]] = defaultdict(list)
        for row in rows:
            found[row.key].append(row)
        return tuple(sorted((_added(alike, 1) for alike in found.values()), key=_order))

    @staticmethod
    def of_ranks(tables: Sequence[TrafficTable]) -> TrafficTable:
        """Return one table for several ranks, with means over the ranks that have the row."""
        labels: dict[tuple[str, str, int], set[str]] = defaultdict(set)
        for table in tables:
            for row in table.rows:
                labels[row.phase, row.collective, row.ranks].add(row.group)
        found: dict[Hashable, list[TrafficRow]] = defaultdict(list)
        for table in tables:
            for row in TrafficTable.summed(_regrouped(table.rows, labels)):
                found[row.key].append(row)
        seconds = [table.step_seconds for table in tables if table.step_seconds is not None]
        return TrafficTable(
            tuple(sorted((_added(alike, len(alike)) for alike in found.values()), key=_order)),
            max((table.steps for table in tables), default=0),
            sum(seconds) / len(seconds) if seconds else None, len(tables))

    def share(self, row: TrafficRow) -> float | None:
        """Return the row's seconds per step over those of a step; None where that is unknown."""
        if row.seconds is None or not self.step_seconds or row.phase == "setup":
            return None
        return row.seconds / self.steps / self.step_seconds

    def texts(self) -> tuple[list[str], list[list[str]]]:
        """Return the titles of the columns and the rows as texts."""
        columns: dict[str, Callable[[TrafficRow], str]] = {
            "phase": lambda row: row.phase,
            "collective": lambda row: row.collective,
            "group": lambda row: row.group,
            "calls": lambda row: _count(row.calls),
            "payload": lambda row: _size(row.payload_bytes),
            "ideal": lambda row: _size(row.ideal_bytes),
            "actual": lambda row: _size(row.actual_bytes),
        }
        if self.steps:
            columns["calls a step"] = lambda row: (
                units.NONE if row.phase == "setup" else _count(row.calls / self.steps))
            columns["ideal a step"] = lambda row: (
                units.NONE if row.phase == "setup" else _size(row.ideal_bytes / self.steps))
        if any(row.seconds is not None for row in self.rows):
            columns["time"] = lambda row: (
                units.NONE if row.seconds is None else units.format_seconds(row.seconds))
            columns["share of the step"] = lambda row: (
                units.NONE if (share := self.share(row)) is None else units.format_percent(share))
        return list(columns), [[show(row) for show in columns.values()] for row in self.rows]

    def caveats(self) -> list[str]:
        """Return the notes, with what the rows say of themselves."""
        found = list(self.notes)
        untimed = [row for row in self.rows if row.untimed]
        if untimed:
            names = sorted({row.collective for row in untimed})
            found.append(f"{_count(sum(row.untimed for row in untimed))} calls of "
                         f"{units.listing(names)} were not timed")
        found += sorted({f"bytes of {row.collective} are missing: {row.unmeasured}"
                         for row in self.rows if row.unmeasured})
        return found

    def __str__(self) -> str:
        about = f"{units.plural(self.ranks, 'rank')}, {units.plural(self.steps, 'step')}"
        if self.step_seconds is not None:
            about += f" of {units.format_seconds(self.step_seconds)}"
        if not self.rows:
            return "\n".join([f"no collectives ({about})", *self.caveats()])
        if self.ranks > 1:
            about += "; numbers are those of a rank, on average"
        return plain_table(about, *self.texts(), self.caveats())


def plain_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]],
                notes: Sequence[str]) -> str:
    """Return a table as text; the first three columns are names, the others numbers."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(
        text.ljust(width) if index < 3 else text.rjust(width)
        for index, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines]
    text = "\n".join([title, *shown, *(f"note: {note}" for note in notes)])
    return text.replace(units.THIN, " ")


def compare(first: TrafficTable, second: TrafficTable
            ) -> tuple[list[str], list[list[str]], list[str]]:
    """Compare two tables step by step.

    Args:
        first: A.
        second: B.

    Returns:
        Titles of columns, rows of texts, and notes. Numbers are per step, and of the whole run
        in the phase ``setup`` or where no step was counted.
    """
    ours, theirs = ({row.key: row for row in table.rows} for table in (first, second))
    timed = any(row.seconds is not None for row in (*first.rows, *second.rows))
    head = ["phase", "collective", "group", "calls A", "calls B", "ideal A", "ideal B", "B / A"]
    head += ["time A", "time B", "B / A"] if timed else []
    rows = []
    for key in sorted({*ours, *theirs}):
        pair = []
        for table, row in ((first, ours.get(key)), (second, theirs.get(key))):
            steps = 1 if key[0] == "setup" else table.steps or 1
            pair.append((row.calls / steps, row.ideal_bytes / steps,
                         None if row.seconds is None else row.seconds / steps)
                        if row else (0.0, 0.0, None))
        (calls, ideal, seconds), (calls_b, ideal_b, seconds_b) = pair
        line = [*key[:3], _count(calls), _count(calls_b), _size(ideal), _size(ideal_b),
                _ratio(ideal_b, ideal)]
        if timed:
            line += [*(units.NONE if value is None else units.format_seconds(value)
                       for value in (seconds, seconds_b)), _ratio(seconds_b, seconds)]
        rows.append(line)
    notes = ["numbers are per step, those of setup and of runs without a step of all"]
    if first.step_seconds and second.step_seconds:
        notes.append(f"a step takes {units.format_seconds(first.step_seconds)} in A and "
                     f"{units.format_seconds(second.step_seconds)} in B")
    return head, rows, notes


def group_label(members: Sequence[int], ranks: int, world: int) -> str:
    """Say which ranks form a group.

    Args:
        members: Ranks of the world in order; none if they are not known.
        ranks: How many they are.
        world: How many ranks there are in all.
    """
    if ranks == world:
        return f"all {units.plural(world, 'rank')}"
    if not members:
        return units.plural(ranks, "rank")
    if len(members) > 2 and members[-1] - members[0] == len(members) - 1:
        return f"ranks {members[0]}-{members[-1]}"
    shown = ", ".join(map(str, members[:_MAX_RANKS]))
    more = len(members) - _MAX_RANKS
    return f"{'ranks' if ranks > 1 else 'rank'} {shown}" + (
        f" and {more} more" if more > 0 else "")


def _regrouped(rows: Iterable[TrafficRow], labels: Mapping[tuple[str, str, int], set[str]]
               ) -> Iterator[TrafficRow]:
    """Yield the rows, those of too many groups of one size under one name."""
    for row in rows:
        groups = len(labels[row.phase, row.collective, row.ranks])
        yield (replace(row, group=f"{groups} groups of {row.ranks} ranks")
               if groups > _MAX_GROUPS else row)


def _added(rows: Sequence[TrafficRow], over: int) -> TrafficRow:
    """Return the sum of alike rows divided by ``over``; None stays None where any is."""
    def total(name: str) -> float:
        value: float = sum(getattr(row, name) for row in rows)
        return value if over == 1 else value / over

    timed = [row.seconds for row in rows if row.seconds is not None]
    actual = None if any(row.actual_bytes is None for row in rows) else total("actual_bytes")
    reasons = sorted({row.unmeasured for row in rows if row.unmeasured})
    return replace(
        rows[0], calls=total("calls"), payload_bytes=total("payload_bytes"),
        ideal_bytes=total("ideal_bytes"), actual_bytes=actual,
        seconds=sum(timed) / over if timed else None, untimed=total("untimed"),
        unmeasured="; ".join(reasons) or None)


def _order(row: TrafficRow) -> tuple[bool, str, float, str, str]:
    return row.phase != "setup", row.phase, -row.ideal_bytes, row.collective, row.group


def _count(value: float) -> str:
    return units.trim(units.format_count(value))


def _size(value: float | None) -> str:
    return units.NONE if value is None else units.trim(units.format_size(value))


def _ratio(above: float | None, below: float | None) -> str:
    if above is None or below is None or (not above and not below):
        return units.NONE
    return units.digits(above / below) if below else "∞"
