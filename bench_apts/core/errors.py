"""The exceptions for mistakes that a user or a plug-in's author can correct, and their wording."""

from __future__ import annotations

import difflib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """Something the user can correct; shown as one line without a traceback, exit code 2."""


class ContractError(Exception):
    """A plug-in breaks the contract, or its own declaration; ends its trial."""


def one_line(message: str) -> str:
    """Return a message as one line of bounded length without control characters."""
    shown = " ".join(message.splitlines())
    return shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                             for c in shown), 1_000)


def describe_error(error: BaseException) -> str:
    """Return an error's class and message as one line of bounded length, for a record."""
    return escape_non_utf8(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def escape_non_utf8(text: str) -> str:
    """Write out as escapes what UTF-8 cannot hold, such as arbitrary bytes in a file's name."""
    return text.encode(errors="backslashreplace").decode()


def last_line(text: str) -> str:
    """Return the last line of a command's output, where an error says what it is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("bench-apts: ") if lines else "it said nothing"


def shortened(text: str, most: int) -> str:
    """Cut the middle out of a text of more than ``most`` characters, saying so."""
    if len(text) <= most:
        return text
    return f"{text[:most // 2]} … ({len(text):,} characters) … {text[-(most // 2):]}"


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """Return the error for an unknown name, with near misses and the names that exist.

    Args:
        kind: What was looked for, for instance ``"suite"``.
        name: What the user wrote.
        known: The names that exist.
        hint: A sentence on how to go on.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    there_is = ", ".join([*names[:30], *(["…"] if len(names) > 30 else [])]) or "none"
    return UserError(f"unknown {kind} '{name}'{guess} Known: {there_is}. {hint}".rstrip())


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
