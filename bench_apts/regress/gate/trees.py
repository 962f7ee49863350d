"""Two states of the code side by side, each laid out as a folder that Python imports it from.

Nothing is built or installed: the packages that pyproject.toml lists are copied to where they
would be installed, with the metadata that entry points are found by. A folder that comes first in
``PYTHONPATH`` hides what is installed, editable or not. Dependencies are the environment's.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.core import git, toml
from bench_apts.core.errors import UserError, last_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


@dataclass(frozen=True)
class Tree:
    """A state of the code.

    Attributes:
        name: ``base`` or ``head``.
        told: What it is, for people.
        root: Folder that its packages are imported from.
    """

    name: str
    told: str
    root: Path

    def environment(self) -> dict[str, str]:
        """Returns the environment of processes that are to run this code."""
        paths = [str(self.root), os.environ.get("PYTHONPATH", "")]
        # Without PYTHONSAFEPATH the present folder, often a checkout, would come first.
        return git.environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def repository(here: Path) -> Path:
    """Returns the top folder of the repository that ``here`` lies in.

    Raises:
        UserError: It lies in none, or git is missing.
    """
    return Path(os.fsdecode(git.output(here, "rev-parse", "--show-toplevel").rstrip(b"\n")))


def base(top: Path, revision: str, folder: Path) -> Tree:
    """Lays out a committed state.

    Args:
        top: The repository.
        revision: What git knows it by.
        folder: An empty folder to work in.

    Raises:
        UserError: There is no such revision, or it is not the code of bench-apts.
    """
    commit = _resolved(top, revision)
    source = folder / "source"
    packed = io.BytesIO(git.output(top, "archive", "--format=zip", commit))
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(source)
    short = commit[:10]
    told = f"{short} ({revision})" if not commit.startswith(revision) else short
    return _laid_out("base", told, source, folder)


def lacking(top: Path, revision: str) -> int:
    """Counts the commits of a revision that the checked-out one does not have.

    Raises:
        UserError: There is no such revision.
    """
    return int(git.text(top, "rev-list", "--count", f"HEAD..{_resolved(top, revision)}"))


def _resolved(top: Path, revision: str) -> str:
    return git.output(
        top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}",
        remedy="give --baseline a revision that `git log` knows (a shallow clone has one alone), "
               "or a results folder").decode().strip()


def head(top: Path, folder: Path) -> Tree:
    """Lays out the working tree as it stands now: tracked files, and new ones not ignored.

    Raises:
        UserError: It is not the code of bench-apts.
    """
    commit = git.output(top, "rev-parse", "--verify", "HEAD").decode()[:10]
    changed = git.output(top, "status", "--porcelain")
    listed = git.output(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    source = folder / "source"
    for name in set(filter(None, os.fsdecode(listed).split("\0"))):
        if (top / name).is_file():  # a deleted file is still listed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, source / name)
    told = f"{commit} with uncommitted changes" if changed else commit
    return _laid_out("head", told, source, folder)


def suite(tree: Tree, name: str) -> str:
    """Returns the file of a built-in suite, for all trees to train the same; else the name."""
    known, at, variant = name.partition("@")
    file = tree.root / "bench_apts" / "suites" / f"{known}.toml"
    return f"{file}{at}{variant}" if file.is_file() else name


def _laid_out(name: str, told: str, source: Path, folder: Path) -> Tree:
    """Copies packages and metadata to where an installation would have them."""
    file = source / "pyproject.toml"
    described = toml.read(file, "project") if file.is_file() else {}
    project = described.get("project", {})
    folders = described.get("tool", {}).get("setuptools", {}).get("package-dir", {})
    if project.get("name") != "bench-apts" or "bench_apts" not in folders:
        raise UserError(f"{name} {told} is not the code of bench-apts: its pyproject.toml does "
                        "not describe that project; run the command in a checkout of bench-apts")
    root = folder / "root"
    for package, place in sorted(folders.items()):
        shutil.copytree(source / place, root.joinpath(*package.split(".")), dirs_exist_ok=True)
    _write_metadata(project, root)
    tree = Tree(name, told, root)
    _check_imports(tree, sorted(folders))
    return tree


def _write_metadata(project: Mapping[str, Any], root: Path) -> None:
    """Writes what the registry finds suites and optimizers by."""
    place = root / f"bench_apts-{project['version']}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: bench-apts\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (place / "entry_points.txt").write_text("\n".join(lines) + "\n")


def _check_imports(tree: Tree, packages: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _WHERE, *packages], env=tree.environment(),
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{tree.name} {tree.told} cannot be imported: {last_line(done.stderr)}")
    for line in done.stdout.splitlines():
        if not Path(line).is_relative_to(tree.root):
            raise UserError(f"{tree.name} {tree.told} would run {line}, which is not its own; "
                            "something on this Python's path hides it")
