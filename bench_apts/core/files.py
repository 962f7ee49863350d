"""Rules for every file: paths are UTF-8, only regular files are read, writes replace at once."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.errors import UserError, escape_non_utf8

if TYPE_CHECKING:
    from pathlib import Path

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises: msgspec lets the latter two through from inside free-form values."""


def require_utf8(what: str, path: Path) -> str:
    """Return a path as text, which records and messages between processes hold as JSON.

    Args:
        what: What lies there, for the message.
        path: The path.

    Raises:
        UserError: Its bytes are not valid UTF-8.
    """
    text = str(path)
    if text != escape_non_utf8(text):
        raise UserError(f"the path of {what}, {escape_non_utf8(text)}, is not valid UTF-8; "
                        "rename it, or choose another")
    return text


def require_regular_file(path: Path, remedy: str, what: str = "") -> None:
    """Refuse a folder, a pipe or a device: reading it might never end, writing might break it.

    Args:
        path: The path; one that may be missing is for the caller to look for first.
        remedy: What to do about it, for the message.
        what: What the message calls the path, for instance ``"suite"``.

    Raises:
        UserError: ``path`` does not exist or is not a regular file.
    """
    if not path.is_file():
        raise UserError(f"{what} {path} is not a regular file; {remedy}".lstrip())


def require_folder(path: Path, remedy: str, what: str = "") -> None:
    """Require that a path is a folder.

    Args:
        path: The path.
        remedy: What to do about it, for the message.
        what: What the message calls the path.

    Raises:
        UserError: ``path`` does not exist or is not a folder.
    """
    if not path.is_dir():
        raise UserError(f"{what} {path} is not a folder; {remedy}".lstrip())


def read_text(path: Path) -> str:
    """Return a file of the system without white space at its ends; "" where it is unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def find_in_file(pattern: str, path: Path) -> str | None:
    """Return the first group of a pattern's first match in a file; None without one."""
    found = re.search(pattern, read_text(path), re.MULTILINE)
    return found[1] if found else None


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON in one step."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
