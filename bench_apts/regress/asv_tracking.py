"""Measures a checkout with asv, and compares its numbers with those of an earlier commit.

In an existing environment asv measures whatever is installed and stores it under any name, so
this module makes sure of both before it starts. asv itself says which numbers differ.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import environment
from bench_apts.core.environment import THREADS
from bench_apts.core.errors import UserError
from bench_apts.core.interrupts import interruptible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIGURATION = "asv.conf.json"

PACKAGES = {"bench_apts": "bench_apts", "bench_apts.optimizers": "optimizers",
            "bench_apts.reports": "reports", "bench_apts.suites": "suites"}
"""Where in a checkout each package lies."""

_END_WAIT_S = 10.0
"""How long asv may take to end in order."""

_BENCHMARK_FAILED = 2
"""asv's exit code where benchmarks failed; with it the others are stored all the same."""

_THRESHOLD = 0.05
"""asv's own, where ``regressions_thresholds`` names none."""


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
    """Find the checkout around a folder.

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
        root, "status", "--porcelain", "--untracked-files=all").splitlines()
    return Checkout(root, resolved(root, "HEAD"), [line[2:].strip() for line in lines])


def resolved(root: Path, revision: str) -> str:
    """Return the hash of a commit.

    Raises:
        UserError: git knows no such commit.
    """
    try:
        return environment.git_text(root, "rev-parse", "--verify", "--quiet", "--end-of-options",
                                    f"{revision}^{{commit}}")
    except UserError as error:
        raise UserError(f"git knows no commit '{revision}' in {root}; see `git log`") from error


def require_content(found: Checkout, commit: str) -> None:
    """Refuse a commit whose files are not those that are checked out."""
    measured, wanted = (environment.git_text(found.root, "rev-parse", f"{each}^{{tree}}")
                        for each in (found.commit, commit))
    if measured != wanted:
        raise UserError(f"--commit {commit[:8]}: {found.root} is at {found.commit[:8]}, whose "
                        f"files differ; `git switch --detach {commit[:8]}` first")


def require_installed(root: Path) -> None:
    """Refuse to measure another copy of the package than the checkout's."""
    for package, folder in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places or Path(places[0]).resolve() != (root / folder).resolve():
            where = f"comes from {places[0]}" if places else "is not there"
            raise UserError(f"what is installed is not this checkout: {package} {where}; "
                            f"`{sys.executable} -m pip install --editable {root}`")


def require_asv() -> None:
    """Refuse to go on without asv."""
    if importlib.util.find_spec("asv") is None:
        raise UserError("asv is not installed; `pip install 'bench-apts[dev]'` brings it")


def require_machine(root: Path) -> str:
    """Register this machine with asv, unless it is registered; return asv's name of it.

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
    """Read the checkout's configuration of asv.

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
    """Run the benchmarks.

    Args:
        root: The checkout.
        results: asv's folder of results.
        machine: asv's name of this one.
        commit: The hash under which the numbers are stored.
        bench: Regular expressions of which one must be found in a benchmark's name; all without.
        quick: Run everything once, to see whether it works, and store nothing.
        store: Whether anything is stored.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; asv and its benchmarks are gone.
        UserError: asv gave up, so that there are no numbers.
    """
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns
                for path in (results / machine).glob(f"{commit[:8]}-*.json")}

    store, before = store and not quick, times()
    code = _run_asv(root, ["run", "--environment", "existing:same", "--set-commit-hash", commit,
                           "--show-stderr", "--no-pull",
                           *(word for pattern in bench for word in ("--bench", pattern)),
                           *["--quick"] * quick, *["--dry-run"] * (not store)])
    written = [path for path, time in times().items() if before.get(path) != time]
    if code not in (0, _BENCHMARK_FAILED) or (store and not written):
        raise UserError(f"asv ended with exit code {code}, as it says above; nothing was stored")
    return BenchmarkRun(written[0] if written else None, code == _BENCHMARK_FAILED)


def _run_asv(root: Path, arguments: Sequence[str]) -> int:
    """Run asv on one thread, its output going to the terminal; return its exit code."""
    threads = dict.fromkeys(THREADS, "1")
    # Unset, SIGINT would stay ignored in what a shell starts in the background.
    with interruptible(), subprocess.Popen(
            [sys.executable, "-m", "asv", *arguments], cwd=root, env=os.environ | threads,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            return process.wait()
        except BaseException as error:
            _end_asv(process, isinstance(error, KeyboardInterrupt))
            raise


def _end_asv(process: subprocess.Popen[bytes], signalled: bool) -> None:
    """End asv by SIGINT, on which alone it ends its benchmarks.

    Ctrl-C may have reached it already; a second one would disturb its clearing up.
    """
    if signalled:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_WAIT_S)
            return
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_WAIT_S)
        return
    process.kill()


class BenchmarkChanges(NamedTuple):
    """What changed from one commit to another beyond the thresholds.

    Attributes:
        numbers: How many numbers both commits have.
        worse: A line for each that rose or is gone.
        better: A line for each that fell or is there again.
    """

    numbers: int
    worse: list[str]
    better: list[str]


def last_before(root: Path, results: Path, machine: str, commit: str) -> str | None:
    """Return the closest ancestor of a commit that has results on a machine."""
    from asv.results import iter_results_for_machine

    measured = {result.commit_hash for result in iter_results_for_machine(str(results), machine)}
    ancestors = environment.git_text(root, "rev-list", "--topo-order", commit).splitlines()[1:]
    return next((ancestor for ancestor in ancestors if ancestor in measured), None)


def find_changes(settings: AsvSettings, machine: str, before: str, after: str
                 ) -> BenchmarkChanges:
    """Compare two commits number by number, each by its threshold, as ``asv compare`` does."""
    from asv.commands.compare import _is_result_better
    from asv.util import load_json

    known = load_json(str(settings.results / "benchmarks.json"))
    old, new = (_stored_numbers(settings.results, machine, each) for each in (before, after))
    both = [name for name in old if name in new and old[name].version == new[name].version]
    found = BenchmarkChanges(len(both), [], [])

    def better(one: _Stored, other: _Stored) -> bool:
        """Whether the first number is lower than the other, or the only one."""
        if one.value is None or other.value is None:
            return one.value is not None and other.value is None
        # Of several thresholds that match asv takes the largest.
        factor = 1.0 + max((float(share) for pattern, share in settings.thresholds.items()
                            if re.match(pattern, one.benchmark)), default=_THRESHOLD)
        return bool(_is_result_better(one.value, other.value, one.spread, other.spread, factor))

    for name in both:
        one, other = old[name], new[name]
        unit = f" {known.get(one.benchmark, {}).get('unit') or ''}".rstrip()
        values = " -> ".join("failed" if each.value is None else f"{each.value:.6g}"
                             for each in (one, other))
        ratio = f" (x {other.value / one.value:.4g})" if one.value and other.value else ""
        text = name.replace("'", "") + f": {values}{unit}{ratio}"
        if better(one, other):
            found.worse.append(f"worse  {text}")
        elif better(other, one):
            found.better.append(f"better {text}")
    return found


class _Stored(NamedTuple):
    """What asv stored of one number: the benchmark and its version, statistics and samples."""

    benchmark: str
    version: str | None
    value: float | None
    spread: tuple[Any, Any]


def _stored_numbers(results: Path, machine: str, commit: str) -> dict[str, _Stored]:
    """Read the numbers of a commit by name and parameters; skipped benchmarks are left out."""
    from asv.commands.compare import unroll_result
    from asv.results import iter_results_for_machine_and_hash

    found = {}
    for result in iter_results_for_machine_and_hash(str(results), machine, commit):
        for benchmark in result.get_all_result_keys():
            params = result.get_result_params(benchmark)
            for name, value, stats, samples in unroll_result(
                    benchmark, params, result.get_result_value(benchmark, params),
                    result.get_result_stats(benchmark, params),
                    result.get_result_samples(benchmark, params)):
                if value is None or not math.isnan(value):
                    found[name] = _Stored(benchmark, result.benchmark_version.get(benchmark),
                                          value, (stats, samples))
    return found
