"""A results folder on disk: events in (append, flush, fsync), records out.

``results/<study>/study.json`` holds the resolved study, ``results/<study>/trials/<run_id>.jsonl``
a trial's events. A torn last line, the mark of a killed writer, is tolerated; any other broken
line is an error that names file and line.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import os
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec

from bench_apts.core.errors import UserError
from bench_apts.core.files import UNREADABLE, require_regular_file
from bench_apts.core.records import Checkpoint, End, Eval, Event, Header, Start, TrialRecord
from bench_apts.core.spec import SCHEMA, Study
from bench_apts.core.trial_files import StoredTrials, select_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

_event_decoder = msgspec.json.Decoder(Event)
_FORCED = frozenset({"error", "oom", "timeout", "interrupted"})
_RARE_THRESHOLD = 100_000
"""Objects that are added before any are collected; Python's own number is 700."""


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
    """Return the present moment, UTC, ISO 8601, in seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def append(path: Path, event: Event) -> None:
    """Append one event, and return once it is on the disk."""
    with write(path, event) as file:
        os.fsync(file.fileno())


def write(path: Path, event: Event) -> BinaryIO:
    """Append one event and return the open file, which brings it to the disk by ``os.fsync``."""
    line = msgspec.json.encode(event) + b"\n"
    with contextlib.ExitStack() as on_error:
        file = on_error.enter_context(path.open("ab+"))
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed writer's torn line stays a line of its own
                line = b"\n" + line
        file.write(line)
        file.flush()
        on_error.pop_all()
    return file


def read_study(folder: Path) -> StudyFile:
    """Read ``study.json`` of a results folder.

    Raises:
        UserError: There is none, or it is broken or newer than this version.
    """
    return read_study_file(folder / "study.json")


def read_study_file(path: Path) -> StudyFile:
    """Read a ``study.json``; raises as ``read_study``."""
    try:
        if path.exists():
            require_regular_file(path, "name a folder that `bench-apts run` wrote")
        content = path.read_bytes()
        _refuse_newer(path, content)
        return msgspec.json.decode(content, type=StudyFile)
    except OSError as error:
        raise UserError(f"{path.parent} is not a results folder: {path.name}: {error.strerror}; "
                        "name one that `bench-apts run` wrote") from error
    except UNREADABLE as error:
        raise UserError(f"{path} is broken ({error}); run the study again, its finished "
                        "trials are kept") from error


def read_trials(folder: Path) -> list[TrialRecord]:
    """Return one record for each run id of a results folder, as ``read_trial_files`` finds it."""
    return read_trial_files(folder).records


def read_trial_files(
    folder: Path, broken: Callable[[UserError], None] | None = None
) -> StoredTrials:
    """Read all trials of a results folder, one for each run id, as ``select_trials`` says.

    Args:
        folder: The results folder.
        broken: Gets the error of each file that cannot be read; None raises the first.

    Raises:
        UserError: As ``read_trial``, without ``broken``.
    """
    with pause_gc():
        return select_trials(folder, read_trial, broken)


def read_trial(path: Path) -> TrialRecord | None:
    """Read one trial's last attempt; None if not even its header was written whole.

    An attempt that was resumed keeps what came before its checkpoint, and drops what came after.

    Raises:
        UserError: It is not a regular file, a complete line is not an event, or the
            schema is newer than ours.
    """
    require_regular_file(path, "move it away")
    record: TrialRecord | None = None
    torn: str | None = None
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            event = _event_decoder.decode(line)
        except UNREADABLE as error:
            # A line may be torn inside a number, which is then valid but for its value.
            torn = f"{path}, line {number}: {error}"
            if _is_json(line):
                _refuse_newer(path, line)
                raise broken(torn) from error
            if record:
                record.torn.append(number)
            continue
        # Only a killed writer tears a line. After it come nothing, the launcher's event on how
        # the attempt ended, or a new attempt.
        if torn and not (isinstance(event, Header)
                         or (isinstance(event, End) and event.status in _FORCED)):
            raise broken(torn)
        torn = None
        if isinstance(event, Header):
            _refuse_newer(path, line)
            record = _attempt(event, record, path)
        elif record is None:
            raise broken(f"{path}, line {number}: an event before any header")
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


def broken(what: str) -> UserError:
    """Return the error for a file of records that is corrupt, as ``what`` says."""
    return UserError(f"{what}; the file is corrupt, move it away and run the study again")


@contextlib.contextmanager
def collect_only_new(make: Callable[[], T]) -> Iterator[T]:
    """Yield what ``make`` returns; while the block runs, garbage is looked for in the rest alone.

    Records have no cycles, and at ten thousand trials the collector's walks over them would take
    a third of a report's time. Even the rest is looked at rarely: a report adds much that stays.
    """
    with pause_gc():
        made = make()
        gc.freeze()
    usual = gc.get_threshold()
    gc.set_threshold(_RARE_THRESHOLD, *usual[1:])
    try:
        yield made
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


@contextlib.contextmanager
def pause_gc() -> Iterator[None]:
    """Collect no garbage while the block runs."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _attempt(header: Header, before: TrialRecord | None, path: Path) -> TrialRecord:
    """Begin an attempt, with what stood ``before`` in its file."""
    record = TrialRecord(header, None, [], None, str(path), before.attempts + 1 if before else 1)
    if before is not None and header.resumed is not None:
        record.evals = [e for e in before.evals if e.samples <= header.resumed]
        record.checkpoints = [c for c in before.checkpoints if c.samples <= header.resumed]
        record.resumed = [*(r for r in before.resumed if r <= header.resumed), header.resumed]
    return record


def _share_traffic(event: Eval, before: list[Eval]) -> None:
    """Let equal traffic of successive evaluations be one object: a fifth of a study's memory."""
    if before:
        for phase, traffic in before[-1].comm.items():
            if event.comm.get(phase) == traffic:
                event.comm[phase] = traffic


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except UNREADABLE:
        return False
    return True


class _Versioned(msgspec.Struct):
    schema: int = SCHEMA


def _refuse_newer(path: Path, content: bytes) -> None:
    """Look at the schema version alone: a newer file may differ in anything else."""
    try:
        schema = msgspec.json.decode(content, type=_Versioned).schema
    except UNREADABLE:
        return
    if schema > SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: "
                        "install a newer bench-apts")
