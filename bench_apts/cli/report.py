"""``bench-apts report``: builds the report again from the records, running nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument


def command(
    results: Annotated[Path, Argument(help="A results folder, for instance results/digits.")],
) -> None:
    """Build the HTML report of a results folder from its records."""
    from bench_apts.reports import build

    print(f"report: {build(results)}")
