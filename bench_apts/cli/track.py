"""``bench-apts track``: measure this commit with asv, and show what changed since the last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.regress.asv_tracking import BenchmarkChanges

_SHOWN = 20
"""Changes that are named at most."""


def command(
    commit: Annotated[str, Option(
        metavar="REV", help="Commit under which the numbers are stored; it must have the files "
                            "that are checked out.")] = "HEAD",
    bench: Annotated[list[str] | None, Option(
        metavar="REGEX", help="Only the benchmarks in whose names this is found; repeatable.",
        show_default=False)] = None,
    quick: Annotated[bool, Option(
        "--quick", help="Run everything once, to see that it works, and store nothing.")] = False,
    dirty: Annotated[bool, Option(
        "--dirty", help="Measure changes that are not committed, and store nothing.")] = False,
) -> None:
    """Measure this commit with asv; exit code 1 if a benchmark failed."""
    from bench_apts.regress import asv_tracking

    asv_tracking.require_asv()
    found = asv_tracking.find_checkout(Path.cwd())
    asv_tracking.require_installed(found.root)
    named = asv_tracking.resolved(found.root, commit)
    asv_tracking.require_content(found, named)
    if found.changed and not (dirty or quick):
        more = f" and {len(found.changed) - 1} more" if len(found.changed) > 1 else ""
        raise UserError(f"{found.changed[0]}{more} in {found.root} not committed, so the numbers "
                        "would belong to no commit; commit or stash first, or look at them "
                        "without storing them with --dirty")
    settings = asv_tracking.read_asv_settings(found.root)
    machine = asv_tracking.require_machine(found.root)
    with session.end_in_order("the numbers are not complete"):
        stored = asv_tracking.run_benchmarks(
            found.root, settings.results, machine, named, bench or (), quick, store=not dirty)
    if stored.file is None:
        print("nothing was stored: " + ("a quick run takes one sample of each" if quick else
                                        "numbers of --dirty belong to no commit"))
    elif asv_tracking.find_checkout(found.root) != found:
        raise UserError(f"{found.root} changed while it was measured, so {stored.file} may hold "
                        "numbers of several states; remove it and measure again")
    else:
        print(f"results: {stored.file}")
        before = asv_tracking.last_before(found.root, settings.results, machine, named)
        if before is None:
            print(f"nothing to compare with: no commit before {named[:8]} has results here")
        else:
            _show(before, named, asv_tracking.find_changes(settings, machine, before, named))
    if stored.failures:
        print("benchmarks failed, as asv says above")
        raise typer.Exit(1)


def _show(before: str, after: str, found: BenchmarkChanges) -> None:
    print(f"since {before[:8]}: of {found.numbers} numbers {len(found.worse)} worse, "
          f"{len(found.better)} better, the others within their thresholds")
    lines = [*found.worse, *found.better]
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more: asv compare {before[:8]} {after[:8]}")
