"""``bench-apts meter``: what the collectives of any training command send."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

SETTINGS = {"allow_interspersed_args": False}
"""For Typer: options that follow the command are the command's."""


def command(
    program: Annotated[list[str] | None, Argument(
        metavar="-- COMMAND…", help="Any command that starts Python processes, for instance "
                                    "torchrun --nproc-per-node 2 train.py.",
        show_default=False)] = None,
    out: Annotated[Path | None, Option(
        help="New folder for the lines, which all ranks can write to.  [default: meter, or "
             "meter-2 …]", show_default=False)] = None,
    interval: Annotated[float, Option(
        min=0.1, metavar="SECONDS", help="From one line of a rank to the next.")] = 10.0,
    time: Annotated[bool, Option(
        "--time", help="Time collectives too, for which some may have to wait.")] = False,
    html: Annotated[Path | None, Option(
        help="File to write the table to, as a page.", show_default=False)] = None,
    compare: Annotated[tuple[Path, Path] | None, Option(
        metavar="A B", help="Compare two folders that the command wrote, instead.",
        show_default=False)] = None,
) -> None:
    """Count what the collectives of a training command send.

    Its script stays as it is, and the exit code is the command's.
    """
    if compare is not None:
        if program:
            raise UserError("--compare takes two folders and no command")
        _compare(*compare, html)
        return
    if not program:
        raise UserError("meter takes a command, for instance "
                        "`bench-apts meter -- torchrun --nproc-per-node 2 train.py`")
    if shutil.which(program[0]) is None:
        raise UserError(f"no command {program[0]} was found; install it or add its folder to PATH")
    folder = _new_folder(out)
    code = _run(program, folder, interval, time)
    try:
        _show(folder, html)
    except UserError as error:
        print(f"bench-apts: {error}", file=sys.stderr)
        code = code or 2
    if code:
        raise typer.Exit(code)


def _new_folder(out: Path | None) -> Path:
    if out is None:
        names = itertools.chain(["meter"], (f"meter-{number}" for number in itertools.count(2)))
        out = next(path for path in map(Path, names) if not path.exists())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out}: {error.strerror}; name another one with "
                        "--out") from error
    if any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder with --out")
    return out.absolute()


def _run(program: list[str], folder: Path, interval: float, timed: bool) -> int:
    """Run the command, pass signals on to it, and return its exit code as shells write it."""
    import msgspec

    from bench_apts.meters import meter_lines

    settings = meter_lines.MeterSettings(str(folder), interval, timed)
    paths = [str(meter_lines.BOOTSTRAP), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(program, env=os.environ | {
        meter_lines.SETTINGS: msgspec.json.encode(settings).decode(),
        "PYTHONPATH": os.pathsep.join(filter(None, paths))})

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:  # the terminal sends that one to both
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on)
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _show(folder: Path, html: Path | None) -> None:
    from bench_apts.meters import metered_files

    ranks = metered_files.read_ranks(folder)
    table = metered_files.table_of(ranks)
    print(table)
    print(f"lines: {folder}", flush=True)
    if html is not None:
        from bench_apts.reports import metered_page

        _write_page(html, metered_page.metered_page(ranks, table))


def _compare(first: Path, second: Path, html: Path | None) -> None:
    from bench_apts.meters import metered_files, traffic_table

    tables = [metered_files.table_of(metered_files.read_ranks(path)) for path in (first, second)]
    head, rows, notes = traffic_table.compare(*tables)
    title = f"A is {first}, B is {second}"
    print(traffic_table.plain_table(title, head, rows, notes))
    if html is not None:
        from bench_apts.reports import metered_page

        table = metered_page.TextTable("A and B", head, rows, notes)
        _write_page(html, metered_page.render_tables("Two metered runs", title, [table]))


def _write_page(html: Path, text: str) -> None:
    session.write_table_file(html, text.encode(), "name another file with --html")
    print(f"page: {html}")
