"""The checkout that is measured: where it is, what it holds, and whether it is what is installed.

In an existing environment asv measures whatever is installed and stores it under any name that it
is given, so both are made sure of before it starts.

Runs asv as it must be run: in this environment, on one thread, under a commit's name.

What changed between two commits, of the numbers that asv stored.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import environment
from bench_apts.core.environment import THREADS
from bench_apts.core.errors import UserError
from bench_apts.launch.elastic import interruptible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.reports.asv_results import BenchmarkLine, History

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


def find_checkout(folder: Path) -> Checkout:
    """Finds the checkout around a folder.

    Raises:
        UserError: There is no git, no checkout, no commit, or it is another project's.
    """
    try:
        root = Path(environment.git_text(folder, "rev-parse", "--show-toplevel"))
    except UserError as error:
        raise UserError(f"{folder} is in no checkout of bench-apts ({error}); go to your clone "
                        "and run `bench-apts track` there") from error
    if not (root / CONFIGURATION).is_file():
        raise UserError(f"{root} has no {CONFIGURATION}; go to a clone of bench-apts and run "
                        "`bench-apts track` there")
    lines = environment.git_text(
        root, "status", "--porcelain", "--untracked-files=all"
    ).splitlines()
    return Checkout(root, resolved(root, "HEAD"), [line[2:].strip() for line in lines])


def resolved(root: Path, revision: str) -> str:
    """Returns the hash of a commit.

    Raises:
        UserError: git knows no such commit.
    """
    try:
        return environment.git_text(root, "rev-parse", "--verify", "--quiet", "--end-of-options",
                   f"{revision}^{{commit}}")
    except UserError as error:
        raise UserError(f"git knows no commit '{revision}' in {root}; see `git log`") from error


def require_content(found: Checkout, commit: str) -> None:
    """Refuses a commit whose files are not those that are checked out.

    Raises:
        UserError: They are not.
    """
    if environment.git_text(found.root, "rev-parse", f"{commit}^{{tree}}") != environment.git_text(
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


_PATIENCE_S = 10.0
"""How long asv may take to end in order."""

_FAILURES = 2
"""asv's exit code where benchmarks failed; with it the others are stored all the same."""


def require_asv() -> None:
    """Refuses to go on without asv.

    Raises:
        UserError: It is not installed beside this package.
    """
    if importlib.util.find_spec("asv") is None:
        raise UserError("asv is not installed; `pip install 'bench-apts[dev]'` brings it")


def run_asv(root: Path, arguments: Sequence[str]) -> int:
    """Runs asv on one thread, its output going to the terminal; returns its exit code.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; asv and its benchmarks are gone.
    """
    threads = dict.fromkeys(THREADS, "1")
    # Unset, SIGINT would stay ignored in what a shell starts in the background.
    with interruptible(), subprocess.Popen(
            [sys.executable, "-m", "asv", *arguments], cwd=root, env=os.environ | threads,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            return process.wait()
        except BaseException as error:
            _end(process, told=isinstance(error, KeyboardInterrupt))
            raise


def _end(process: subprocess.Popen[bytes], told: bool) -> None:
    """Ends asv by SIGINT, on which alone it ends its benchmarks.

    Args:
        process: asv.
        told: Whether Ctrl-C may have reached it too; a second one would disturb its clearing up.
    """
    for signalled in (False, True) if told else (True,):
        if signalled:
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            return
    process.kill()


def require_machine(root: Path) -> str:
    """Introduces this machine to asv, if nobody has; returns asv's name of it.

    Raises:
        UserError: asv cannot keep what it knows of the machine.
    """
    from asv.machine import Machine, MachineCollection
    from asv.util import UserError as Unknown

    name = str(Machine.get_unique_machine_name())
    try:
        known = MachineCollection.load(name)
    except Unknown:
        done = subprocess.run([sys.executable, "-m", "asv", "machine", "--yes"], cwd=root,
                              check=False, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"`asv machine --yes` failed: {done.stderr or done.stdout}") from None
        known = MachineCollection.load(name)
    return str(known["machine"])


class AsvSettings(NamedTuple):
    """What of asv's configuration matters here.

    Attributes:
        results: Folder of its results.
        thresholds: By regular expression of a benchmark's name, the share by which its number
            may rise before asv calls it a regression.
    """

    results: Path
    thresholds: Mapping[str, float]


def read_asv_settings(root: Path) -> AsvSettings:
    """Reads the checkout's configuration of asv.

    Raises:
        UserError: asv cannot read it.
    """
    from asv.config import Config
    from asv.util import UserError as Broken

    try:
        config = Config.load(str(root / CONFIGURATION))
    except (Broken, ValueError) as error:  # the latter from the parser that asv uses
        raise UserError(f"{root / CONFIGURATION}: {error}") from error
    return AsvSettings(root / config.results_dir, config.regressions_thresholds)


class BenchmarkRun(NamedTuple):
    """How a run ended.

    Attributes:
        file: Where the numbers are, None where none were to be stored.
        failures: Whether a benchmark failed.
    """

    file: Path | None
    failures: bool


def run_benchmarks(root: Path, results: Path, machine: str, commit: str, bench: Sequence[str] = (),
        quick: bool = False, store: bool = True) -> BenchmarkRun:
    """Runs the benchmarks.

    Args:
        root: The checkout.
        results: asv's folder of results.
        machine: asv's name of this one.
        commit: The hash under which the numbers are stored.
        bench: Regular expressions of which one must be found in a benchmark's name; all without.
        quick: Runs everything once, which tells whether it works, and stores nothing.
        store: Whether anything is stored.

    Raises:
        UserError: asv gave up, so that there are no numbers.
    """
    store = store and not quick
    before = _times(results, machine, commit)
    code = run_asv(root, ["run", "--environment", "existing:same", "--set-commit-hash", commit,
                      "--show-stderr", "--no-pull",
                      *(word for pattern in bench for word in ("--bench", pattern)),
                      *["--quick"] * quick, *["--dry-run"] * (not store)])
    written = [path for path, time in _times(results, machine, commit).items()
               if before.get(path) != time]
    if code not in (0, _FAILURES) or (store and not written):
        raise UserError(f"asv ended with exit code {code}, as it says above; nothing was stored")
    return BenchmarkRun(written[0] if written else None, code == _FAILURES)


def _times(results: Path, machine: str, commit: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns
            for path in (results / machine).glob(f"{commit[:8]}-*.json")}


_THRESHOLD = 0.05
"""asv's own, where ``regressions_thresholds`` names none."""


class BenchmarkChange(NamedTuple):
    """A benchmark's number at two commits; None where it failed."""

    name: str
    unit: str
    before: float | None
    after: float | None

    @property
    def worse(self) -> bool:
        """Whether the number rose, or is gone."""
        if self.after is None or self.before is None:
            return self.after is None
        return self.after > self.before

    def __str__(self) -> str:
        before, after = ("failed" if value is None else f"{value:.6g}"
                         for value in (self.before, self.after))
        ratio = f" (x {self.after / self.before:.4g})" if self.before and self.after else ""
        return f"{'worse ' if self.worse else 'better'} {self.name}: {before} -> {after}" + (
            f" {self.unit}{ratio}" if self.unit else ratio)


class BenchmarkChanges(NamedTuple):
    """What changed from one commit to another beyond the thresholds.

    Attributes:
        numbers: How many numbers both commits have.
        beyond: Those that changed, the worse ones first.
    """

    numbers: int
    beyond: list[BenchmarkChange]


def last_before(root: Path, history: History, machine: str, commit: str) -> str | None:
    """Returns the closest ancestor of a commit that has results on a machine."""
    measured = {point.commit for line in history.lines if line.machine == machine
                for point in line.points}
    ancestors = environment.git_text(root, "rev-list", "--topo-order", commit).splitlines()[1:]
    return next((ancestor for ancestor in ancestors if ancestor in measured), None)


def find_changes(history: History, machine: str, before: str, after: str,
            thresholds: Mapping[str, float]) -> BenchmarkChanges:
    """Compares two commits number by number."""
    numbers, beyond = 0, []
    for line in history.lines:
        at = {point.commit: point.value for point in line.points}
        if line.machine != machine or not {before, after} <= set(at):
            continue
        numbers += 1
        change = BenchmarkChange(_name(line), line.unit, at[before], at[after])
        if _differs(change, _threshold(change.name, thresholds)):
            beyond.append(change)
    return BenchmarkChanges(numbers, sorted(beyond, key=lambda change: not change.worse))


def _name(line: BenchmarkLine) -> str:
    return f"{line.benchmark}({line.parameters})" if line.parameters else line.benchmark


def _differs(change: BenchmarkChange, threshold: float) -> bool:
    if change.before is None or change.after is None:
        return change.before is not change.after
    return abs(change.after - change.before) > threshold * abs(change.before)


def _threshold(name: str, thresholds: Mapping[str, float]) -> float:
    """Returns the largest of those that match, as asv does."""
    found = [float(value) for pattern, value in thresholds.items() if re.match(pattern, name)]
    return max(found, default=_THRESHOLD)
