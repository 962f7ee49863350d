"""Files on disk: events in (append, flush, fsync), records out.

``results/<study>/study.json`` holds the resolved study, ``results/<study>/trials/<run_id>.jsonl``
a trial's events. A torn last line, the mark of a killed writer, is tolerated; any other broken
line is an error that names file and line.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import msgspec

from bench_apts.core.errors import UserError
from bench_apts.core.records import Checkpoint, End, Eval, Event, Header, Start, TrialRecord
from bench_apts.core.spec import SCHEMA, Study

_decoder = msgspec.json.Decoder(Event)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: msgspec lets the latter two through from inside free-form values."""
_FORCED = frozenset({"error", "oom", "timeout", "interrupted"})


class _Versioned(msgspec.Struct):
    schema: int = SCHEMA


class MergedFolder(msgspec.Struct):
    """A results folder that went into this one: where it lay, and what its ``study.json`` said."""

    folder: str
    command: list[str]
    created: str
    environment: dict[str, Any]


class StudyFile(msgspec.Struct):
    """The content of ``study.json``: what was asked, by which command, on what machine.

    ``merged`` is empty but for folders that ``bench-apts merge`` wrote; their ``environment`` is
    that of the first. What the command ran with says which records are current, whatever clocks
    say: ``data`` by data set and ``code`` by competitor are fingerprints, ``untuned`` is the
    configuration of each competitor that was not to be tuned. ``unpublished`` names the known data
    sets whose files cannot be shown to hold the published data; absent where there are none.
    """

    study: Study
    command: list[str]
    created: str
    environment: dict[str, Any]
    schema: int = SCHEMA
    merged: list[MergedFolder] = []
    data: dict[str, str] = {}
    code: dict[str, str] = {}
    untuned: dict[str, str] = {}
    unpublished: list[str] | msgspec.UnsetType = msgspec.UNSET


def now() -> str:
    """Returns the present moment, UTC, ISO 8601, in seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def append(path: Path, event: Event) -> None:
    """Appends one event and does not return before it is on the disk.

    A torn last line of a killed writer is closed first, so that it stays a line of its own.
    """
    line = msgspec.json.encode(event) + b"\n"
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` beside ``path`` and renames: readers see the old file or the new one."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_trial(path: Path) -> TrialRecord | None:
    """Reads one trial's last attempt; None if not even its header was written whole.

    An attempt that was resumed keeps what came before its checkpoint, and drops what came after.

    Raises:
        UserError: It is no plain file, a line other than a torn one is no event, or the schema
            is newer than ours.
    """
    if not path.is_file():  # reading a device or a pipe would never end
        raise UserError(f"{path} is no plain file; move it away")
    record: TrialRecord | None = None
    torn: str | None = None
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            event = _decoder.decode(line)
        except UNREADABLE as error:
            # A line may be torn inside a number, which is then valid but for its value.
            if _is_json(line):
                _refuse_newer(path, line)
                raise broken(f"{where}: {error}") from error
            torn = f"{where}: {error}"
            if record:
                record.torn.append(number)
            continue
        # Only a killed writer tears a line. After it come nothing, the launcher's word on how
        # the attempt ended, or a new attempt.
        if torn and not (isinstance(event, Header)
                         or (isinstance(event, End) and event.status in _FORCED)):
            raise broken(torn)
        torn = None
        if isinstance(event, Header):
            _refuse_newer(path, line)
            record = _attempt(event, record, path)
        elif record is None:
            raise broken(f"{where}: an event before any header")
        elif isinstance(event, Start):
            record.start = event
        elif isinstance(event, Eval):
            _share_traffic(event, record.evals)
            record.evals.append(event)
        elif isinstance(event, Checkpoint):
            record.checkpoints.append(event)
        else:
            record.end = event
    return record


def _share_traffic(event: Eval, before: list[Eval]) -> None:
    """Lets an evaluation refer to the traffic of a phase that stood still since the one before.

    It is a fifth of the memory that a large study takes.
    """
    if before:
        for phase, traffic in before[-1].comm.items():
            if event.comm.get(phase) == traffic:
                event.comm[phase] = traffic


def _attempt(header: Header, before: TrialRecord | None, path: Path) -> TrialRecord:
    """Begins an attempt, with what stood ``before`` in its file."""
    record = TrialRecord(header, None, [], None, str(path), before.attempts + 1 if before else 1)
    if before is not None and header.resumed is not None:
        record.evals = [e for e in before.evals if e.samples <= header.resumed]
        record.checkpoints = [c for c in before.checkpoints if c.samples <= header.resumed]
        record.resumed = [*(r for r in before.resumed if r <= header.resumed), header.resumed]
    return record


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except UNREADABLE:
        return False
    return True


def _refuse_newer(path: Path, content: bytes) -> None:
    """Looks at the schema version alone: a newer file may differ in anything else."""
    try:
        schema = msgspec.json.decode(content, type=_Versioned).schema
    except UNREADABLE:
        return
    if schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: "
                        "install a newer bench-apts")


def broken(what: str) -> UserError:
    """Returns the error for a file of records that is corrupt, as ``what`` says."""
    return UserError(f"{what}; the file is corrupt, move it away and run the study again")


def read_study(folder: Path) -> StudyFile:
    """Reads ``study.json`` of a results folder.

    Raises:
        UserError: There is none, or it is broken or newer than this version.
    """
    path = folder / "study.json"
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no plain file; name a folder that `bench-apts run` wrote")
        content = path.read_bytes()
        _refuse_newer(path, content)
        return msgspec.json.decode(content, type=StudyFile)
    except OSError as error:
        raise UserError(f"{folder} is no results folder: {path.name}: {error.strerror}; "
                        "name one that `bench-apts run` wrote") from error
    except UNREADABLE as error:
        raise UserError(f"{path} is broken ({error}); run the study again, its finished "
                        "trials are kept") from error


def read_trials(folder: Path) -> list[TrialRecord]:
    """Return one record for each run id of a results folder, as ``trial_files.read`` finds it."""
    from bench_apts.core import trial_files  # it reads single trials through this module

    return trial_files.read_trial_files(folder).records
