"""Two states of the code side by side, each laid out as a folder that Python imports it from.

Nothing is built or installed: the packages that pyproject.toml lists are copied to where they
would be installed, with the metadata that entry points are found by. A folder that comes first in
``PYTHONPATH`` hides what is installed, editable or not. Dependencies are the environment's.

Runs trainings with a tree's code, by its own command line, and reads their records.
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
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import configuration, environment, store
from bench_apts.core.configuration import competitor_label
from bench_apts.core.errors import UserError, last_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial

_WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""


@dataclass(frozen=True)
class CodeTree:
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
        return environment.git_environment() | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}


def repository_root(here: Path) -> Path:
    """Returns the top folder of the repository that ``here`` lies in.

    Raises:
        UserError: It lies in none, or git is missing.
    """
    return Path(
        os.fsdecode(environment.git_output(here, "rev-parse", "--show-toplevel").rstrip(b"\n"))
    )


def committed_tree(top: Path, revision: str, folder: Path) -> CodeTree:
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
    packed = io.BytesIO(environment.git_output(top, "archive", "--format=zip", commit))
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(source)
    short = commit[:10]
    told = f"{short} ({revision})" if not commit.startswith(revision) else short
    return _laid_out("base", told, source, folder)


def missing_commits(top: Path, revision: str) -> int:
    """Counts the commits of a revision that the checked-out one does not have.

    Raises:
        UserError: There is no such revision.
    """
    return int(
        environment.git_text(top, "rev-list", "--count", f"HEAD..{_resolved(top, revision)}")
    )


def _resolved(top: Path, revision: str) -> str:
    return environment.git_output(
        top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}",
        remedy="give --baseline a revision that `git log` knows (a shallow clone has one alone), "
               "or a results folder").decode().strip()


def working_tree(top: Path, folder: Path) -> CodeTree:
    """Lays out the working tree as it stands now: tracked files, and new ones not ignored.

    Raises:
        UserError: It is not the code of bench-apts.
    """
    commit = environment.git_output(top, "rev-parse", "--verify", "HEAD").decode()[:10]
    changed = environment.git_output(top, "status", "--porcelain")
    listed = environment.git_output(
        top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    )
    source = folder / "source"
    for name in set(filter(None, os.fsdecode(listed).split("\0"))):
        if (top / name).is_file():  # a deleted file is still listed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, source / name)
    told = f"{commit} with uncommitted changes" if changed else commit
    return _laid_out("head", told, source, folder)


def suite_path(tree: CodeTree, name: str) -> str:
    """Returns the file of a built-in suite, for all trees to train the same; else the name."""
    known, at, variant = name.partition("@")
    file = tree.root / "bench_apts" / "suites" / f"{known}.toml"
    return f"{file}{at}{variant}" if file.is_file() else name


def _laid_out(name: str, told: str, source: Path, folder: Path) -> CodeTree:
    """Copies packages and metadata to where an installation would have them."""
    file = source / "pyproject.toml"
    described = configuration.read_toml(file, "project") if file.is_file() else {}
    project = described.get("project", {})
    folders = described.get("tool", {}).get("setuptools", {}).get("package-dir", {})
    if project.get("name") != "bench-apts" or "bench_apts" not in folders:
        raise UserError(f"{name} {told} is not the code of bench-apts: its pyproject.toml does "
                        "not describe that project; run the command in a checkout of bench-apts")
    root = folder / "root"
    for package, place in sorted(folders.items()):
        shutil.copytree(source / place, root.joinpath(*package.split(".")), dirs_exist_ok=True)
    _write_metadata(project, root)
    tree = CodeTree(name, told, root)
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


def _check_imports(tree: CodeTree, packages: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _WHERE, *packages], env=tree.environment(),
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{tree.name} {tree.told} cannot be imported: {last_line(done.stderr)}")
    for line in done.stdout.splitlines():
        if not Path(line).is_relative_to(tree.root):
            raise UserError(f"{tree.name} {tree.told} would run {line}, which is not its own; "
                            "something on this Python's path hides it")


_PATIENCE_S = 10.0
"""How long a command may take to end in order when this one is interrupted."""


class GateCell(NamedTuple):
    """One optimizer on one suite at one world size."""

    suite: str
    label: str
    ranks: int

    @property
    def where(self) -> str:
        """Names it for people."""
        return f"{self.label} on {self.suite} at N = {self.ranks}"


@dataclass(frozen=True)
class GateRequest:
    """What both trees are to train, without any tuning.

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
        """Returns the arguments of ``bench-apts`` that train this."""
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


def train(tree: CodeTree, asked: GateRequest, out: Path, *, seeds: int = 1,
          base_seed: int = 0) -> list[TrialRecord]:
    """Trains with the code of a tree.

    Args:
        tree: Whose code.
        asked: What to train.
        out: Results folder, which must not exist.
        seeds: Repetitions of each training.
        base_seed: What all seeds are derived from.

    Returns:
        The records of all trials.

    Raises:
        Failed: The command ended in an error.
        UserError: Its records cannot be read by this version.
    """
    command = [sys.executable, "-m", "bench_apts", *asked.arguments(seeds, base_seed, out)]
    with subprocess.Popen(command, env=tree.environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors="replace") as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its ranks watch it, and end themselves
            raise
    records = store.read_trials(out)
    # Code 1 tells of an optimizer without a result, whose trials say so themselves.
    if process.returncode and not (process.returncode == 1 and any(map(failed_trial, records))):
        raise TrainingFailed(last_line(said))
    if not records:
        raise UserError(f"{tree.name} {tree.told} trained nothing; see "
                        f"`{' '.join(command[1:])}`")
    return records


def by_cell(records: list[TrialRecord]) -> dict[GateCell, TrialRecord]:
    """Places the records of one repetition."""
    return {cell_of(r.trial): r for r in records}


def cell_of(trial: Trial) -> GateCell:
    """Returns where a trial belongs; older trees call a plug-in file by its path."""
    return GateCell(trial.suite.name, competitor_label(trial.label, trial.optimizer), trial.ranks)


def failed_trial(record: TrialRecord, base: TrialRecord | None = None) -> str:
    """Says how a trial came to no answer, "" where it has one.

    Args:
        record: The trial.
        base: The same one of the baseline; given, to diverge is no answer either, unless it did.
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
