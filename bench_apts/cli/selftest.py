"""``bench-apts selftest``: whether instruments and optimizers work on this machine's device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option


def command(
    device: Annotated[Literal["cuda", "cpu"], Option(help="What to check.")] = "cuda",
    out: Annotated[Path, Option(help="JSON file of the findings.")] = Path("selftest.json"),
    check: Annotated[list[str] | None, Option(
        metavar="NAME", help="One check; repeatable.  [default: all]", show_default=False)] = None,
) -> None:
    """Check clocks, meter, memory, precision, speed and all optimizers on a GPU, in five minutes.

    Exit code 1: a check failed; 2: the device is not available.
    """
    from bench_apts.core.errors import unknown
    from bench_apts.selftest import run_checks

    for name in check or []:
        if name not in run_checks.CHECKS:
            raise unknown("check", name, run_checks.CHECKS)
    code = run_checks.run_all(device, out, check)
    if code:
        raise typer.Exit(code)
