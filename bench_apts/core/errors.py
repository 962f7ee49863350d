"""The exceptions for mistakes that a user or the author of a plug-in can make and mend.

What the system must grant a study: checked before the first trial, named where it ran out.
"""

from __future__ import annotations

import difflib
import errno
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; shown as one line, without a traceback, exit code 2."""


class ContractError(Exception):
    """A plug-in does not do what the contract asks, or what it claims; ends its trial."""


def one_line(message: str) -> str:
    """Returns a message as one line of bounded length without control characters."""
    shown = " ".join(message.splitlines())
    return shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                             for c in shown), 1_000)


def describe_error(error: BaseException) -> str:
    """Returns an error's class and message as one line of bounded length, for a record."""
    return escape_non_utf8(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def escape_non_utf8(text: str) -> str:
    """Writes out what UTF-8 cannot hold, such as the bytes of a file's name that were none."""
    return text.encode(errors="backslashreplace").decode()


def last_line(text: str) -> str:
    """Returns the last line of a command's output, where an error says what it is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("bench-apts: ") if lines else "it said nothing"


def shortened(text: str, most: int) -> str:
    """Cuts the middle out of a text of more than ``most`` characters, saying so."""
    if len(text) <= most:
        return text
    return f"{text[:most // 2]} … ({len(text):,} characters) … {text[-(most // 2):]}"


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """Answers an unknown name with what was asked, the near misses and what there is.

    Args:
        kind: What was looked for, for instance ``"suite"``.
        name: What the user wrote.
        known: The names that exist.
        hint: How to go on, appended as a sentence of its own.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    there_is = ", ".join(names[:30]) or "none"
    return UserError(f"unknown {kind} '{name}'{guess} Known: {there_is}. {hint}".rstrip())


_FILES, _FILES_PER_RANK = 32, 5
_TASKS, _TASKS_PER_RANK = 4, 6
"""Open files of the command, and processes and threads of a study beside it, as counted."""

_LEAST_ADDRESS_SPACE = 2**30
"""Bytes below which not even torch's libraries can be loaded."""

_RANK_ADDRESS_SPACE = 2**29
"""Bytes that a rank takes beyond what loading the libraries took, at least."""

_STACK_BYTES = 2**16
_GIB = 2**30


def require_address_space(beyond: int = 0) -> None:
    """Refuse a limit of the address space that torch or its ranks cannot do with.

    Args:
        beyond: Bytes that this process holds already, and a rank will hold, too.

    Raises:
        UserError: The limit is too low.
    """
    limit = _soft_limit("RLIMIT_AS")
    least = beyond + _RANK_ADDRESS_SPACE if beyond else _LEAST_ADDRESS_SPACE
    if limit is not None and limit < least:
        raise UserError(f"a process may take {limit / _GIB:.2f} GiB of address space here "
                        f"(ulimit -v), and a study takes {least / _GIB:.1f} GiB or more; raise "
                        "the limit")


def require_resources(ranks: int, threads: int) -> None:
    """Refuse limits under which no trial could start.

    Args:
        ranks: Most ranks of a trial on this machine.
        threads: That each rank computes with.

    Raises:
        UserError: Too few files can be opened, or too few processes and threads be started.
    """
    limit, files = _soft_limit("RLIMIT_NOFILE"), _FILES + _FILES_PER_RANK * ranks
    if limit is not None and limit < files:
        raise UserError(f"{limit} files can be open at once here (ulimit -n), and {ranks} "
                        f"rank{'s' * (ranks > 1)} take about {files}; raise the limit")
    tasks = _TASKS + (_TASKS_PER_RANK + threads - 1) * ranks
    if not _startable(tasks):
        raise UserError(f"{ranks} rank{'s' * (ranks > 1)} take about {tasks} processes and "
                        "threads beside those that run, and the system grants fewer (ulimit -u, "
                        "or the container's limit of pids); raise the limit, or choose fewer "
                        "--gpus")


def explain_shortage(error: BaseException) -> str | None:
    """Say what ran out where an exception means that something did; None where it does not."""
    message = str(error)
    if isinstance(error, FileNotFoundError) and "temporary directory" in message:
        return (f"no temporary folder can be written to ({message.partition(' in ')[2]}); set "
                "TMPDIR to one that can")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit, see `ulimit -n`"
    if (isinstance(error, OSError) and error.errno == errno.EAGAIN) or (
            "can't start new thread" in message):
        return ("no further process or thread can be started; raise the limit, see `ulimit -u`, "
                "`ulimit -v` and the container's limit of pids")
    if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno == errno.ENOMEM) or (
            isinstance(error, ImportError) and "failed to map segment" in message):
        return ("no memory is left for this process; raise the limit, see `ulimit -v`, or give "
                "the machine or container more")
    return None


def _soft_limit(name: str) -> int | None:
    """Return a limit of this process; None where there is none."""
    try:
        import resource
    except ImportError:  # not a Unix system
        return None
    limit = resource.getrlimit(getattr(resource, name))[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _startable(count: int) -> bool:
    """Whether so many threads can be started, which count like processes, at the same time."""
    release = threading.Event()
    before = threading.stack_size(_STACK_BYTES)
    started = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        threading.stack_size(before)
        release.set()
        for thread in started:
            thread.join()
    return True


def address_space() -> int:
    """Return the bytes of address space that this process holds."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().vms)
