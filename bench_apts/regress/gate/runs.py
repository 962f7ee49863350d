"""Runs trainings with a tree's code, by its own command line, and reads their records."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import store
from bench_apts.core.errors import UserError, last_line
from bench_apts.core.spec import called

if TYPE_CHECKING:
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Trial
    from bench_apts.regress.gate.trees import Tree

_PATIENCE_S = 10.0
"""How long a command may take to end in order when this one is interrupted."""


class Cell(NamedTuple):
    """One optimizer on one suite at one world size."""

    suite: str
    label: str
    ranks: int

    @property
    def where(self) -> str:
        """Names it for people."""
        return f"{self.label} on {self.suite} at N = {self.ranks}"


@dataclass(frozen=True)
class Asked:
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


class Failed(Exception):
    """A tree's command ended in an error, in one line."""


def train(tree: Tree, asked: Asked, out: Path, *, seeds: int = 1,
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
    if process.returncode and not (process.returncode == 1 and any(map(failure, records))):
        raise Failed(last_line(said))
    if not records:
        raise UserError(f"{tree.name} {tree.told} trained nothing; see "
                        f"`{' '.join(command[1:])}`")
    return records


def by_cell(records: list[TrialRecord]) -> dict[Cell, TrialRecord]:
    """Places the records of one repetition."""
    return {cell_of(r.trial): r for r in records}


def cell_of(trial: Trial) -> Cell:
    """Returns where a trial belongs; older trees call a plug-in file by its path."""
    return Cell(trial.suite.name, called(trial.label, trial.optimizer), trial.ranks)


def failure(record: TrialRecord, base: TrialRecord | None = None) -> str:
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
