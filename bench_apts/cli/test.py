"""``bench-apts test``: whether a suite or an optimizer keeps what its contract asks for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from bench_apts.cli import session
from bench_apts.core.errors import UserError, one_line, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from bench_apts.study.check_findings import CheckFinding


def command(
    name: Annotated[str, Argument(
        metavar="NAME|FILE", show_default=False,
        help="Suite or optimizer, by name or by TOML or Python file; of an optimizer with "
             "hyperparameters, if any: NAME[KEY=VALUE,…].")],
    device: session.DeviceOf = "auto",
    data_dir: session.DataDir = None,
    base_seed: session.BaseSeed = 0,
    offline: session.Offline = False,
) -> None:
    """Test a suite or an optimizer.

    Of a suite its data, loss and target, and two steps of sgd and apts at N = 1 and 2. Of an
    optimizer what docs/optimizers.md asks for, by short trainings at N = 1, 2 and 3 on CPU ranks;
    the options are for suites.

    One line per check: ok, skipped, warning or failed, with a remedy. Exit code 2: a check
    failed.
    """
    console = session.table_console()
    session.choose_device(device)
    if _is_optimizer(name):
        _test_optimizer(console, name)
    else:
        _test_suite(console, name, data_dir, base_seed, offline)


def _is_optimizer(name: str) -> bool:
    """Say whether a name is an optimizer's, not a suite's.

    Raises:
        UserError: It is neither, or both.
    """
    from bench_apts.plugins import registry, suite_file

    bare = name.partition("[")[0]
    if bare != name or bare.endswith(".py"):
        return True
    suite = suite_file.split(name)[0]
    if suite != name or suite.endswith(".toml"):
        return False
    suites, optimizers = registry.suite_names(), registry.optimizer_names()
    if name in suites and name in optimizers:
        raise UserError(f"'{name}' is a suite and an optimizer; write {registry.suite_path(name)} "
                        f"for the suite and {name}[] for the optimizer")
    if name not in suites and name not in optimizers:
        raise unknown("suite or optimizer", name, [*optimizers, *suites],
                      "A file's path ending in .toml or .py works too.")
    return name in optimizers


def _test_optimizer(console: Console, selector: str) -> None:
    from bench_apts.study.optimizer_examination import examine_alone

    session.find_placement_of_command(console, None, None, None)
    with session.end_in_order():
        _print(console, examine_alone(selector))


def _test_suite(console: Console, suite: str, data_dir: Path | None, base_seed: int, offline: bool
                ) -> None:
    from bench_apts.core import gpu_devices
    from bench_apts.study import resolve, target_calibration
    from bench_apts.study.suite_examination import CHECK_OPTIMIZERS, examine_suite

    session.find_placement_of_command(console, None, None, None)
    one_gpu = gpu_devices.gpu_count() == 1
    missing = target_calibration.missing_target(suite)
    study, _ = resolve.resolve_study(
        suites=[suite], overrides=missing, gpus="1" if one_gpu else "1,2",
        optimizers=CHECK_OPTIMIZERS, trials=0, seeds=1, base_seed=base_seed, twins=True)
    with (session.end_in_order(),
          tempfile.TemporaryDirectory(prefix="bench-apts-test-") as folder):
        note = ("note: one GPU here, so N = 2 is left out; --device cpu tests it on CPU ranks"
                if one_gpu else "")
        _print(console, examine_suite(study, suite, missing, data_dir, offline, Path(folder)),
               note)


def _print(console: Console, findings: Iterable[CheckFinding], note: str = "") -> None:
    """Print findings as they come, and their counts.

    Raises:
        Exit: With code 2, if a check failed.
    """
    from bench_apts.core.units import plural

    counts = dict.fromkeys(("failed", "warning"), 0)
    for found in findings:
        console.print(one_line(str(found)), soft_wrap=True)
        if found.level in counts:
            counts[found.level] += 1
    if note:
        console.print(note)
    console.print(f"{plural(counts['failed'], 'failure')}, {plural(counts['warning'], 'warning')}")
    if counts["failed"]:
        raise typer.Exit(2)
