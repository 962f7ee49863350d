"""What `run` and `tune` do alike: resolve a study, run its trials, end in order."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

    from bench_apts.plan import Plan
    from bench_apts.spec import Study


def console() -> Console:
    """Returns where progress goes."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False)


def folder(out: Path, study: str | None, resolved: Study) -> Path:
    """Returns a study's results folder, named after its suites unless the user names it."""
    return out / (study or "+".join(suite.name for suite in resolved.suites))


def plan(
    out: Console, resolved: Study, notes: Sequence[str], data_dir: Path | None, offline: bool
) -> Plan:
    """Prepares the data and lays out the trials, saying what a user should know before."""
    from bench_apts import study as studies
    from bench_apts.plan import Plan

    for note in notes:
        out.print(f"note: {note}", markup=False)
    return Plan(resolved, studies.prepare(resolved, data_dir, offline))


def run(
    out: Console, planned: Plan, results: Path, shared: bool, reports: bool,
    then: Callable[[], None],
) -> None:
    """Runs a plan in its folder and finishes with ``then``; says which trials failed."""
    from bench_apts import study as studies
    from bench_apts.launch.elastic import Interrupted
    from bench_apts.progress import Progress

    with studies.opened(results, shared):
        progress = Progress(out)
        try:
            with progress.shown():
                studies.run(planned, results, progress, shared, reports)
        except (Interrupted, KeyboardInterrupt) as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            out.print(f"interrupted: finished trials are kept in {results}; the same command "
                      "goes on from there", markup=False)
            raise typer.Exit(128 + number) from error
        failed = {name: count for name, count in progress.statuses.items()
                  if name in ("error", "oom", "timeout")}
        if failed:
            out.print("note: " + ", ".join(f"{n} {s}" for s, n in failed.items())
                      + " among the trials; the report says why", markup=False)
        then()
