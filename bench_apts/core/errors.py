"""The exceptions for mistakes that a user or the author of a plug-in can make and mend."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class UserError(Exception):
    """Something the user can mend; shown as one line, without a traceback, exit code 2."""


class ContractError(Exception):
    """A plug-in does not do what the contract asks, or what it claims; ends its trial."""


def one_line(message: str) -> str:
    """Returns a message as one line of bounded length without control characters."""
    shown = " ".join(message.splitlines())
    return shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode()
                             for c in shown), 1_000)


def brief(error: BaseException) -> str:
    """Returns an error's class and message as one line of bounded length, for a record."""
    return encodable(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def encodable(text: str) -> str:
    """Writes out what UTF-8 cannot hold, such as the bytes of a file's name that were none."""
    return text.encode(errors="backslashreplace").decode()


def told(what: str, path: Path) -> str:
    """Returns a path as text, for processes and records that are told of it in JSON.

    Args:
        what: What lies there, for the message.
        path: The path.

    Raises:
        UserError: Its bytes are no text.
    """
    text = str(path)
    if text != encodable(text):
        raise UserError(f"the path of {what}, {encodable(text)}, is not valid UTF-8; rename it, "
                        "or choose another")
    return text


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
