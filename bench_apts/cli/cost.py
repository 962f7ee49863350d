"""``bench-apts cost``: what tuning cost and when it pays, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from bench_apts.cli import session
from bench_apts.core.currencies import CURRENCIES, Currency

if TYPE_CHECKING:
    from bench_apts.reports.table import Value


def command(
    results: session.Results,
    currency: Annotated[Currency | None, Option(
        metavar="UNIT", help=f"What the main columns count: {', '.join(CURRENCIES)} "
                             "(GPU-seconds on CUDA). Without it, samples on CPUs and "
                             "core_seconds on CUDA.")] = None,
    level: Annotated[float, Option(
        metavar="SHARE", help="Level of the target, one of the suite's own; 1 is the full "
                              "target.")] = 1.0,
    replay: Annotated[bool, Option(
        help="Replay other tuning policies over the recorded trials; takes seconds.")] = True,
) -> None:
    """Show what tuning cost, how sure that is, and when it pays."""
    from rich.table import Table

    from bench_apts.reports.gather import gather
    from bench_apts.reports.table import csv_bytes
    from bench_apts.reports.tuning_bill import study_bill

    found = study_bill(gather(results), currency, level, replay=replay)
    console = session.table_console()
    for line in found.warnings:
        console.print(session.plain_text(line), soft_wrap=True)
    numbers: dict[str, list[dict[str, str | int | float | bool | None]]] = {}
    for suite, tables in found.tables:
        for table in tables:
            shown = Table(*(title for title, _ in table.head), box=None, title_justify="left",
                          title=f"{suite.name}: {table.title}")
            for row in table.rows:
                shown.add_row(*(_entry(value, console.is_terminal) for value in row))
            console.print(shown)
            numbers.setdefault(table.name, []).extend(table.records())
    captions = dict.fromkeys(table.caption for _, tables in found.tables for table in tables)
    for note in (*captions, *found.notes):
        console.print(f"note: {session.plain_text(note)}", soft_wrap=True)
    for name, rows in numbers.items():
        path = results / "tables" / f"{name}.csv"
        session.write_table_file(path, csv_bytes(rows), session.TABLES)
        print(f"table: {path}")


def _entry(value: Value, narrow: bool) -> str:
    """Format a value with its detail: below it on a terminal, after it in a file."""
    remark = ", ".join(part for part in (value.badge, value.detail) if part)
    if not remark:
        return session.plain_text(value.text)
    return session.plain_text(f"{value.text}\n{remark}" if narrow else f"{value.text} ({remark})")
