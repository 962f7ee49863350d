"""Two states of a repository, each in a folder of its own, and trainings with either.

A folder that comes first in ``PYTHONPATH`` hides what is installed, editable or not. Dependencies
are the environment's. A tree of bench-apts trains by its own command line. A tree of another
repository, which holds an optimizer, trains by the installed bench-apts: its project is installed,
if it is one, and files are those of the tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import configuration, environment, store
from bench_apts.core.configuration import competitor_label
from bench_apts.core.errors import UserError, last_line
from bench_apts.regress.asv_tracking import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial

_LOCATIONS = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""

_INSTALL = ("-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet",
            "--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--target")

_END_WAIT_S = 10.0
"""How long a command may take to end in order when this one is interrupted."""


@dataclass(frozen=True)
class CodeTree:
    """A state of the code.

    Attributes:
        name: ``base`` or ``head``.
        text: What it is, for people.
        root: Folder that its packages are imported from.
        folder: Where its command runs, so that it takes the files of this tree; None for a tree
            of bench-apts, which may run anywhere.
    """

    name: str
    text: str
    root: Path
    folder: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment of processes that run this code."""
        paths = [str(self.root), os.environ.get("PYTHONPATH", "")]
        # Without PYTHONSAFEPATH the present folder, often a checkout, would come first.
        return environment.git_environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def repository_root(here: Path) -> Path:
    """Return the top folder of the repository that ``here`` lies in.

    Raises:
        UserError: It lies in none, or git is missing.
    """
    return Path(
        os.fsdecode(environment.git_output(here, "rev-parse", "--show-toplevel").rstrip(b"\n")))


def committed_tree(top: Path, revision: str, folder: Path, here: Path | None = None) -> CodeTree:
    """Install a committed state.

    Args:
        top: The repository.
        revision: A name by which git knows the commit.
        folder: An empty folder to work in.
        here: The folder of the repository that files are named relative to; ``top`` by default.

    Raises:
        UserError: There is no such revision, or it cannot be installed.
    """
    commit, source = _resolved(top, revision), folder / "source"
    short = commit[:10]
    # No hooks: those of a checkout may do anything.
    environment.git_output(top, "-c", f"core.hooksPath={os.devnull}", "worktree", "add",
                           "--quiet", "--detach", str(source), commit)
    try:
        text = short if commit.startswith(revision) else f"{short} ({revision})"
        return _installed("base", text, source, folder / "root", _inside(top, here))
    finally:
        environment.git_output(top, "worktree", "remove", "--force", str(source))


def working_tree(top: Path, folder: Path, here: Path | None = None) -> CodeTree:
    """Install the working tree as it stands now: tracked files, and new ones not ignored.

    Args:
        top: The repository.
        folder: An empty folder to work in.
        here: As for ``committed_tree``.

    Raises:
        UserError: It cannot be installed.
    """
    commit = environment.git_output(top, "rev-parse", "--verify", "HEAD").decode()[:10]
    changed = environment.git_output(top, "status", "--porcelain")
    listed = environment.git_output(
        top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    source = folder / "source"
    for name in set(filter(None, os.fsdecode(listed).split("\0"))):
        if (top / name).is_file():  # a deleted file is still listed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, source / name)
    text = f"{commit} with uncommitted changes" if changed else commit
    return _installed("head", text, source, folder / "root", _inside(top, here))


def _inside(top: Path, here: Path | None) -> Path:
    return here.resolve().relative_to(top.resolve()) if here else Path()


def missing_commits(top: Path, revision: str) -> int:
    """Count the commits of a revision that the checked-out one does not have.

    Raises:
        UserError: There is no such revision.
    """
    return int(environment.git_text(
        top, "rev-list", "--count", f"HEAD..{_resolved(top, revision)}"))


def suite_path(tree: CodeTree, name: str) -> str:
    """Return the file of a suite of the tree, for all trees to train the same; else the name."""
    known, at, variant = name.partition("@")
    if tree.folder is not None and known.endswith(".toml"):
        return f"{tree.folder / known}{at}{variant}"
    file = tree.root / "bench_apts" / "suites" / f"{known}.toml"
    return f"{file}{at}{variant}" if file.is_file() else name


def _resolved(top: Path, revision: str) -> str:
    return environment.git_output(
        top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}",
        remedy="give --baseline a revision that `git log` knows (a shallow clone has one alone), "
               "or a results folder").decode().strip()


def _installed(name: str, text: str, source: Path, root: Path, inside: Path) -> CodeTree:
    """Install a tree's sources, offline, and make sure that it imports its own packages."""
    file = source / "pyproject.toml"
    project = configuration.read_toml(file, "project") if file.is_file() else {}
    if not is_bench_apts(project):
        folder = root.parent / "files"
        shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        if not (folder / inside).is_dir():
            raise UserError(f"{name} {text} has no folder {inside}; run the command in one that "
                            "both have")
        tree = CodeTree(name, text, root, folder / inside)
        if "project" in project or (source / "setup.py").is_file():
            _pip_install(tree, source, "its build backend")
        return tree
    tree = CodeTree(name, text, root)
    _pip_install(tree, source, "setuptools >= 77")
    done = subprocess.run([sys.executable, "-c", _LOCATIONS, *PACKAGES], env=tree.environment(),
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name} {text} cannot be imported: {last_line(done.stderr)}")
    for line in done.stdout.splitlines():
        if not Path(line).is_relative_to(root):
            raise UserError(f"{name} {text} would run {line}, which is not its own; something on "
                            "this Python's path hides it")
    return tree


def _pip_install(tree: CodeTree, source: Path, backend: str) -> None:
    done = subprocess.run([sys.executable, "-P", *_INSTALL, tree.root, source],
                          env=environment.git_environment(), capture_output=True, text=True,
                          errors="replace", check=False)
    if done.returncode:
        raise UserError(f"{tree.name} {tree.text} cannot be installed: {last_line(done.stderr)}; "
                        f"see that this environment has pip and {backend}")


def is_bench_apts(project: Mapping[str, Any]) -> bool:
    """Say whether a pyproject.toml describes bench-apts."""
    return bool(project.get("project", {}).get("name") == "bench-apts")


class GateCell(NamedTuple):
    """One optimizer on one suite at one world size."""

    suite: str
    label: str
    ranks: int

    @property
    def where(self) -> str:
        """The cell's name for people."""
        return f"{self.label} on {self.suite} at N = {self.ranks}"


@dataclass(frozen=True)
class GateRequest:
    """What both trees train, without any tuning.

    Attributes:
        suites: Names, or TOML files.
        ranks: World sizes.
        optimizers: Selectors.
        overrides: Values of ``--set``.
        data_dir: Folder with data sets; None for the default.
        offline: Whether downloading is forbidden.
    """

    suites: tuple[str, ...]
    ranks: tuple[int, ...]
    optimizers: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    data_dir: Path | None = None
    offline: bool = False

    def arguments(self, seeds: int, base_seed: int, out: Path) -> list[str]:
        """Return the arguments of ``bench-apts`` that train this."""
        found = ["run", "--gpus", ",".join(map(str, self.ranks)),
                 "--optimizers", ",".join(self.optimizers), "--trials", "0",
                 "--seeds", str(seeds), "--base-seed", str(base_seed), "--no-twins",
                 "--out", str(out.parent), "--study", out.name]
        for option, values in (("--suite", self.suites), ("--set", self.overrides)):
            for value in values:
                found += [option, value]
        if self.data_dir:
            found += ["--data-dir", str(self.data_dir)]
        return [*found, "--offline"] if self.offline else found


class TrainingFailed(Exception):
    """A tree's command ended in an error, in one line."""


def train(tree: CodeTree, request: GateRequest, out: Path, *, seeds: int = 1,
          base_seed: int = 0) -> list[TrialRecord]:
    """Run a study with the code of a tree.

    Args:
        tree: Whose code.
        request: What to train.
        out: Results folder, which must not exist.
        seeds: Repetitions of each training.
        base_seed: What all seeds are derived from.

    Returns:
        The records of all trials.

    Raises:
        TrainingFailed: The command ended in an error.
        UserError: Its records cannot be read by this version.
    """
    command = [sys.executable, "-m", "bench_apts", *request.arguments(seeds, base_seed, out)]
    with subprocess.Popen(command, cwd=tree.folder, env=tree.environment(),
                          stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors="replace") as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=_END_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its ranks watch it, and end themselves
            raise
    records = store.read_trials(out)
    # Code 1 means an optimizer without a result; its trials say so themselves.
    if process.returncode and not (process.returncode == 1 and any(map(failed_trial, records))):
        raise TrainingFailed(last_line(said))
    if not records:
        raise UserError(f"{tree.name} {tree.text} trained nothing; see `{' '.join(command[1:])}`")
    return records


def cell_of(trial: Trial) -> GateCell:
    """Return where a trial belongs; older trees call a plug-in file by its path."""
    return GateCell(trial.suite.name, competitor_label(trial.label, trial.optimizer), trial.ranks)


def failed_trial(record: TrialRecord, base: TrialRecord | None = None) -> str:
    """Say why a trial has no answer, "" where it has one.

    Args:
        record: The trial.
        base: The same one of the baseline; with it, to diverge is no answer either, unless base
            diverged as well.
    """
    end = record.end
    if end is None or end.status in ("error", "oom", "timeout", "interrupted"):
        status = end.status if end else "no end"
        return f"{status}: {end.reason}" if end and end.reason else status
    if not record.evals or not record.evals[-1].samples:
        return f"{end.status} before any step was evaluated"
    if base and base.end and end.status == "diverged" != base.end.status:
        return f"diverged: {end.reason}" if end.reason else "diverged"
    return ""
