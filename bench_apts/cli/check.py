"""``bench-apts check``: reads every record again and says what cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument


def command(
    results: Annotated[Path, Argument(help="A results folder, for instance results/digits.")],
) -> None:
    """Check the records of a results folder; exit code 1 if any cannot be believed."""
    from bench_apts import soundness

    trials, problems = soundness.check(results)
    for problem in problems:
        print(problem)
    print(f"trials: {trials}, " + (f"problems: {len(problems)}" if problems else "all sound"))
    if problems:
        raise typer.Exit(1)
