"""git, asked about a repository."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError, last_line

if TYPE_CHECKING:
    from pathlib import Path


def output(folder: Path, *arguments: str, remedy: str = "",
           timeout: float | None = None) -> bytes:
    """Returns what git writes.

    Args:
        folder: Where to run it.
        arguments: Its own.
        remedy: What the user is to do if it refuses.
        timeout: Seconds that it may take; None for any time.

    Raises:
        UserError: git is missing, refuses, or takes too long.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=environment(),
                              capture_output=True, check=False, timeout=timeout)
    except FileNotFoundError as error:
        raise UserError("git is not installed; install it") from error
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}; mend its installation") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} took more than {timeout:g} s in {folder}; "
                        "see why by running it there") from error
    if done.returncode:
        why = _reason(done.stderr.decode(errors="replace"))
        raise UserError(f"git {arguments[0]}: {why}" + (f"; {remedy}" if remedy else ""))
    return done.stdout


def text(folder: Path, *arguments: str, timeout: float | None = None) -> str:
    """Returns what git writes, as text without the last line break; see ``output``."""
    return output(folder, *arguments, timeout=timeout).decode(errors="replace").rstrip("\n")


def _reason(complaint: str) -> str:
    """Say in a line why git refused, and what it proposes against dubious ownership."""
    lines = [line.strip() for line in complaint.splitlines()]
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    proposed = [line for line in lines if line.startswith("git config ")]
    if fatal and proposed:
        return f"{fatal[0]}; to trust it: {proposed[0]}"
    return last_line(complaint)


def environment() -> dict[str, str]:
    """Returns this process's variables without those of a git hook.

    Its GIT_DIR would make git answer for another repository.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
