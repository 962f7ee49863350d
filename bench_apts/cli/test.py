"""``bench-apts test``: whether a suite is sound, by looking at its data and by short trials."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from bench_apts.cli import options, session, terminal


def command(
    suite: Annotated[str, Argument(
        metavar="NAME|FILE", help="Suite by name or TOML file.", show_default=False)],
    data_dir: options.DataDir = None,
    base_seed: options.BaseSeed = 0,
    offline: options.Offline = False,
) -> None:
    """Test a suite: its data, loss and target, and two steps of sgd and apts at N = 1 and 2.

    One line per check: ok, skipped, warning or failed, with what to mend. Exit code 2: a check
    failed.
    """
    from bench_apts.core import environment
    from bench_apts.core.errors import one_line
    from bench_apts.core.units import plural
    from bench_apts.launch.elastic import Interrupted, interruptible
    from bench_apts.study import resolve
    from bench_apts.study.calibration import target_file
    from bench_apts.study.suite_checks import trials
    from bench_apts.study.suite_checks.examine import examine

    console = terminal.console()
    session.place(console, None, None, None)
    one_gpu = environment.gpu_count() == 1
    missing = target_file.missing(suite)
    study, _ = resolve.study(
        suites=[suite], overrides=missing, gpus="1" if one_gpu else "1,2",
        optimizers=trials.OPTIMIZERS, trials=0, seeds=1, base_seed=base_seed, twins=True)
    counts = dict.fromkeys(("failed", "warning"), 0)
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="bench-apts-test-") as folder:
            for found in examine(study, suite, missing, data_dir, offline, Path(folder)):
                console.print(one_line(str(found)), soft_wrap=True)
                if found.level in counts:
                    counts[found.level] += 1
    except Interrupted as error:
        raise typer.Exit(128 + error.number) from error
    if one_gpu:
        console.print("note: one GPU here, so N = 2 is left out; CUDA_VISIBLE_DEVICES= tests it "
                      "on CPU ranks")
    console.print(f"{plural(counts['failed'], 'failure')}, {plural(counts['warning'], 'warning')}")
    if counts["failed"]:
        raise typer.Exit(2)
