"""Which files of a results folder hold its trials: one counts for each run id."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench_apts.core.errors import UserError
from bench_apts.core.files import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench_apts.core.records import TrialRecord

_RUN_ID = re.compile("[0-9A-Za-z_-]{1,64}")
_MAX_HEADER_BYTES = 2**20
_MAX_NAMED = 5
"""Files that a sentence names."""


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


def select_trials(
    folder: Path, read: Callable[[Path], TrialRecord | None],
    broken: Callable[[UserError], None] | None = None,
) -> StoredTrials:
    """Read all trials of a results folder, one for each run id.

    A record is a file of ``trials/`` whose name ends in ``.jsonl``. Of several with the same run
    id in their header the one named after it counts; without that one, the most complete, and of
    equals the newest. Backups such as ``X.jsonl~`` never count.

    Args:
        folder: The results folder.
        read: Reads one file; None where not even its header is whole.
        broken: Gets the error of each file that cannot be read; None raises the first.

    Raises:
        UserError: As ``read``, without ``broken``.
    """
    named: dict[str, TrialRecord] = {}
    others: list[TrialRecord] = []
    copies: dict[Path, str] = {}
    headless: list[Path] = []

    def add(path: Path) -> None:
        try:
            record = read(path)
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

    rest = []
    for path in sorted((folder / "trials").glob("*.jsonl*")):
        if path.name.startswith("."):
            continue
        if path.suffix == ".jsonl" and _RUN_ID.fullmatch(path.stem):
            add(path)
        else:
            rest.append(path)
    for path in rest:
        run_id = _first_run_id(path)
        if path.suffix == ".jsonl" and run_id not in named:
            add(path)
        elif run_id:
            copies[path] = run_id
    kept = dict(named)
    for record in sorted(others, key=lambda r: (incompleteness(r), -_begun(r), r.path)):
        if kept.setdefault(record.header.run_id, record) is not record:
            copies[Path(record.path)] = record.header.run_id
    _share_environments(kept.values())
    return StoredTrials(
        sorted(kept.values(), key=lambda r: r.path),
        [DuplicateTrialFile(path, run_id, Path(kept[run_id].path) if run_id in kept else None)
         for path, run_id in sorted(copies.items())],
        headless)


def left_out(copies: Sequence[DuplicateTrialFile]) -> str:
    """Say in a sentence which files are left out as copies; "" if there are none."""
    if not copies:
        return ""
    names = [f"{copy.path.name} ({copy.kept.name} counts)" if copy.kept
             else f"{copy.path.name} (the name of a backup)" for copy in copies[:_MAX_NAMED]]
    more = f" and {len(copies) - _MAX_NAMED} more" if len(copies) > _MAX_NAMED else ""
    return (f"one record counts for each run id, so {len(copies)} "
            f"file{'s are' if len(copies) > 1 else ' is'} left out: {', '.join(names)}{more}")


def incompleteness(record: TrialRecord) -> tuple[bool, bool, int]:
    """Return a key that sorts attempts at one trial, the most complete first."""
    return not record.finished, record.end is None, -len(record.evals)


def _share_environments(records: Iterable[TrialRecord]) -> None:
    """Let equal environment cards be one object, which saves memory and comparisons."""
    cards: dict[bytes, dict[str, Any]] = {}
    for header in (record.header for record in records):
        header.environment = cards.setdefault(
            msgspec.json.encode(header.environment), header.environment)


def _begun(record: TrialRecord) -> float:
    try:
        return dt.datetime.fromisoformat(record.header.time).timestamp()
    except ValueError:  # written by hand
        return 0.0


class _FirstLine(msgspec.Struct, tag="header", tag_field="event"):
    run_id: str


def _first_run_id(path: Path) -> str:
    """Return the run id in the first line of a file; "" if there is none."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.readline(_MAX_HEADER_BYTES), type=_FirstLine).run_id
    except (OSError, *UNREADABLE):
        return ""
