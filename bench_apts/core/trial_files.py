"""Keeps Python's garbage collector from walking over millions of records again and again.

They have no cycles, and at ten thousand trials it would take a third of a report's time.

The files of a results folder that hold its trials: one counts for each run id.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from bench_apts.core import store
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bench_apts.core.records import TrialRecord

T = TypeVar("T")

_RARE_THRESHOLD = 100_000
"""Objects that are added before any are collected; Python's own number is 700."""


@contextlib.contextmanager
def pause_gc() -> Iterator[None]:
    """Collects nothing while the block runs."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextlib.contextmanager
def collect_only_new(make: Callable[[], T]) -> Iterator[T]:
    """Yields what ``make`` returns; while the block runs, only what it adds is collected.

    And that not often: a report adds much that stays, and little that has to be found.
    """
    with pause_gc():
        made = make()
        gc.freeze()
    often = gc.get_threshold()
    gc.set_threshold(_RARE_THRESHOLD, *often[1:])
    try:
        yield made
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()


_ID = re.compile("[0-9A-Za-z_-]{1,64}")
_LONGEST_HEADER = 2**20
"""Bytes of a first line that are read to find the run id."""

_MAX_NAMED = 5
"""Files that a sentence names."""


class _Identified(msgspec.Struct, tag="header", tag_field="event"):
    run_id: str


class DuplicateTrialFile(NamedTuple):
    """A file that is left out, as another file counts for the trial in it.

    ``kept`` is that other file; None where there is only this one, whose name does not end in
    ``.jsonl``.
    """

    path: Path
    run_id: str
    kept: Path | None

    def __str__(self) -> str:
        """Say what the file holds, and why it does not count."""
        if self.kept is None:
            return (f"{self.path} holds the trial {self.run_id} under a backup's name; rename it "
                    f"to {self.run_id}.jsonl if it is the record, else move it away")
        return (f"{self.path} holds the trial {self.run_id} again, {self.kept.name} counts; move "
                "one of them away")


def left_out(copies: Sequence[DuplicateTrialFile]) -> str:
    """Say in a sentence which files are left out as copies; "" if there are none."""
    if not copies:
        return ""
    names = [f"{copy.path.name} ({copy.kept.name} counts)" if copy.kept
             else f"{copy.path.name} (the name of a backup)" for copy in copies[:_MAX_NAMED]]
    more = f" and {len(copies) - _MAX_NAMED} more" if len(copies) > _MAX_NAMED else ""
    return (f"one record counts for each run id, so {len(copies)} "
            f"file{'s are' if len(copies) > 1 else ' is'} left out: {', '.join(names)}{more}")


class StoredTrials(NamedTuple):
    """The trials of a results folder.

    Attributes:
        records: One for each run id, in the order of their files' names.
        copies: Files of trials that other files hold, too; they are left out.
        headless: Files without a whole header.
    """

    records: list[TrialRecord]
    copies: list[DuplicateTrialFile]
    headless: list[Path]


def read_trial_files(
    folder: Path, broken: Callable[[UserError], None] | None = None
) -> StoredTrials:
    """Read all trials of a results folder, one for each run id.

    A record is a file of ``trials/`` whose name ends in ``.jsonl``. Of several with the same run
    id in their header the one named after it counts; without that one, the most complete, and of
    equals the newest. Backups such as ``X.jsonl~`` never count.

    Args:
        folder: The results folder.
        broken: Gets the error of each file that cannot be read; None raises the first.

    Raises:
        UserError: As ``store.read_trial``, without ``broken``.
    """
    named: dict[str, TrialRecord] = {}
    others: list[TrialRecord] = []
    copies: dict[Path, str] = {}
    headless: list[Path] = []

    def add(path: Path) -> None:
        try:
            record = store.read_trial(path)
        except UserError as error:
            if broken is None:
                raise
            broken(error)
            return
        if record is None:
            headless.append(path)
        elif record.header.run_id == path.stem:
            named[path.stem] = record
        else:
            others.append(record)

    with pause_gc():
        paths = sorted(path for path in (folder / "trials").glob("*.jsonl*")
                       if not path.name.startswith("."))
        rest = []
        for path in paths:
            if path.suffix == ".jsonl" and _ID.fullmatch(path.stem):
                add(path)
            else:
                rest.append(path)
        for path in rest:
            run_id = _run_id(path)
            if path.suffix == ".jsonl" and run_id not in named:
                add(path)
            elif run_id:
                copies[path] = run_id
    kept = dict(named)
    for record in sorted(others, key=lambda r: (incompleteness(r), _newest(r), r.path)):
        if kept.setdefault(record.header.run_id, record) is not record:
            copies[Path(record.path)] = record.header.run_id
    return StoredTrials(
        sorted(_shared(kept.values()), key=lambda r: r.path),
        [DuplicateTrialFile(path, run_id, Path(kept[run_id].path) if run_id in kept else None)
         for path, run_id in sorted(copies.items())],
        headless)


def incompleteness(record: TrialRecord) -> tuple[bool, bool, int]:
    """Return a key that sorts attempts at one trial, the most complete first."""
    return not record.finished, record.end is None, -len(record.evals)


def _newest(record: TrialRecord) -> float:
    try:
        return -dt.datetime.fromisoformat(record.header.time).timestamp()
    except ValueError:  # written by hand
        return 0.0


def _run_id(path: Path) -> str:
    """Read the run id in the first line of a file; "" if there is none."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.readline(_LONGEST_HEADER), type=_Identified).run_id
    except (OSError, *store.UNREADABLE):
        return ""


def _shared(records: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """Let records of one environment refer to one card, which saves memory and comparisons."""
    cards: dict[bytes, dict[str, Any]] = {}
    for record in records:
        header = record.header
        header.environment = cards.setdefault(
            msgspec.json.encode(header.environment), header.environment)
        yield record
