"""``bench-apts test``: whether a suite is sound, by looking at its data and by short trials."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from bench_apts.cli import session


def command(
    suite: Annotated[str, Argument(
        metavar="NAME|FILE", help="Suite by name or TOML file.", show_default=False)],
    data_dir: session.DataDir = None,
    base_seed: session.BaseSeed = 0,
    offline: session.Offline = False,
) -> None:
    """Test a suite: its data, loss and target, and two steps of sgd and apts at N = 1 and 2.

    One line per check: ok, skipped, warning or failed, with a remedy. Exit code 2: a check
    failed.
    """
    from bench_apts.core import environment
    from bench_apts.core.errors import one_line
    from bench_apts.core.units import plural
    from bench_apts.study import resolve, target_calibration
    from bench_apts.study.suite_examination import CHECK_OPTIMIZERS, examine_suite

    console = session.table_console()
    session.find_placement_of_command(console, None, None, None)
    one_gpu = environment.gpu_count() == 1
    missing = target_calibration.missing_target(suite)
    study, _ = resolve.resolve_study(
        suites=[suite], overrides=missing, gpus="1" if one_gpu else "1,2",
        optimizers=CHECK_OPTIMIZERS, trials=0, seeds=1, base_seed=base_seed, twins=True)
    counts = dict.fromkeys(("failed", "warning"), 0)
    with (session.end_in_order(),
          tempfile.TemporaryDirectory(prefix="bench-apts-test-") as folder):
        for found in examine_suite(study, suite, missing, data_dir, offline, Path(folder)):
            console.print(one_line(str(found)), soft_wrap=True)
            if found.level in counts:
                counts[found.level] += 1
    if one_gpu:
        console.print("note: one GPU here, so N = 2 is left out; CUDA_VISIBLE_DEVICES= tests it "
                      "on CPU ranks")
    console.print(f"{plural(counts['failed'], 'failure')}, {plural(counts['warning'], 'warning')}")
    if counts["failed"]:
        raise typer.Exit(2)
