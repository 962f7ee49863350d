"""The checkout that is measured: where it is, what it holds, and whether it is what is installed.

In an existing environment asv measures whatever is installed and stores it under any name that it
is given, so both are made sure of before it starts.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from bench_apts.core import git
from bench_apts.core.errors import UserError

CONFIGURATION = "asv.conf.json"

_PACKAGES = {"bench_apts": "bench_apts", "bench_apts.optimizers": "optimizers",
             "bench_apts.reports": "reports", "bench_apts.suites": "suites"}
"""Where in a checkout each package lies."""


class Checkout(NamedTuple):
    """A clone of the repository.

    Attributes:
        root: Its top folder.
        commit: The hash of what is checked out.
        changed: Files that differ from the commit or are not part of it, ignored ones aside.
    """

    root: Path
    commit: str
    changed: list[str]


def checkout(folder: Path) -> Checkout:
    """Finds the checkout around a folder.

    Raises:
        UserError: There is no git, no checkout, no commit, or it is another project's.
    """
    try:
        root = Path(git.text(folder, "rev-parse", "--show-toplevel"))
    except UserError as error:
        raise UserError(f"{folder} is in no checkout of bench-apts ({error}); go to your clone "
                        "and run `bench-apts track` there") from error
    if not (root / CONFIGURATION).is_file():
        raise UserError(f"{root} has no {CONFIGURATION}; go to a clone of bench-apts and run "
                        "`bench-apts track` there")
    lines = git.text(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    return Checkout(root, resolved(root, "HEAD"), [line[2:].strip() for line in lines])


def resolved(root: Path, revision: str) -> str:
    """Returns the hash of a commit.

    Raises:
        UserError: git knows no such commit.
    """
    try:
        return git.text(root, "rev-parse", "--verify", "--quiet", "--end-of-options",
                   f"{revision}^{{commit}}")
    except UserError as error:
        raise UserError(f"git knows no commit '{revision}' in {root}; see `git log`") from error


def require_content(found: Checkout, commit: str) -> None:
    """Refuses a commit whose files are not those that are checked out.

    Raises:
        UserError: They are not.
    """
    if git.text(found.root, "rev-parse", f"{commit}^{{tree}}") != git.text(
            found.root, "rev-parse", f"{found.commit}^{{tree}}"):
        raise UserError(f"--commit {commit[:8]}: {found.root} is at {found.commit[:8]}, whose "
                        f"files differ; `git switch --detach {commit[:8]}` first")


def require_installed(root: Path) -> None:
    """Refuses to measure another copy of the package than the checkout's.

    Raises:
        UserError: A package of ours would be imported from elsewhere.
    """
    for package, folder in _PACKAGES.items():
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places or Path(places[0]).resolve() != (root / folder).resolve():
            where = f"comes from {places[0]}" if places else "is not there"
            raise UserError(f"what is installed is not this checkout: {package} {where}; "
                            f"`{sys.executable} -m pip install --editable {root}`")
