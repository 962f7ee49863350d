"""What commands that show tables do alike: a console, plain characters, files beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


TABLES = "copy the results folder to where you can write, to have its tables too"
"""How to come by the tables of a results folder that cannot be written to."""


def console() -> Console:
    """Returns where tables go; a file or a pipe has no edge to break lines at."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    if not found.is_terminal:
        found.width = 1000
    return found


def plain(text: str) -> str:
    """Puts plain spaces and hyphens in place of those that a web page does not break at."""
    return text.replace("\u202f", " ").replace("\u2011", "-")


def write(path: Path, content: bytes, remedy: str) -> None:
    """Writes a file of a command's numbers, and the folders that it lies in.

    Raises:
        UserError: It cannot be written; ``remedy`` says how it could be.
    """
    from bench_apts.core import store

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; {remedy}") from error
