"""git, asked about a repository."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from bench_apts.errors import UserError, last_line

if TYPE_CHECKING:
    from pathlib import Path


def output(folder: Path, *arguments: str, remedy: str = "") -> bytes:
    """Returns what git writes.

    Args:
        folder: Where to run it.
        arguments: Its own.
        remedy: What the user is to do if it refuses.

    Raises:
        UserError: git is missing or refuses.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=environment(),
                              capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is not installed; install it") from error
    if done.returncode:
        why = last_line(done.stderr.decode(errors="replace"))
        raise UserError(f"git {arguments[0]}: {why}" + (f"; {remedy}" if remedy else ""))
    return done.stdout


def text(folder: Path, *arguments: str) -> str:
    """Returns what git writes, as text without the last line break; see ``output``."""
    return output(folder, *arguments).decode(errors="replace").rstrip("\n")


def environment() -> dict[str, str]:
    """Returns this process's variables without those of a git hook.

    Its GIT_DIR would make git answer for another repository.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
