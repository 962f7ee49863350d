"""``bench-apts compare``: whether B is worse than A beyond noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from bench_apts.cli import session
from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from bench_apts.reports.compared_studies import StudyComparison


def command(
    compared: Annotated[list[str], Argument(
        metavar="A B | RESULTS A B", show_default=False,
        help="Two results folders, or one and two of its optimizers as the study calls them.")],
    factor: Annotated[float, Option(
        min=1.0, help="Ratio of a cost or count up to which B does not count as worse.")] = 1.0,
    csv: Annotated[Path | None, Option(
        help="File to write the numbers to.", show_default=False)] = None,
    markdown: Annotated[bool, Option(
        "--markdown", help="Print Markdown, for instance for a pull request.")] = False,
) -> None:
    """Compare two studies or two optimizers.

    Exit code 1: B is worse beyond noise; 2: there is nothing to compare.
    """
    from bench_apts.reports import compared_tables, table
    from bench_apts.reports.compared_studies import compare_optimizers, compare_studies
    from bench_apts.reports.gather import gather

    session.require_finite_factor(factor)
    match compared:
        case [first, second]:
            for name in compared:
                if not Path(name).exists():
                    raise UserError(f"there is no folder {name}; compare two results folders, or "
                                    "two optimizers with `bench-apts compare RESULTS A B`")
            found = compare_studies(
                gather(Path(first)), gather(Path(second)), (first, second), factor
            )
        case [results, first, second]:
            found = compare_optimizers(gather(Path(results)), first, second, factor)
        case _:
            raise UserError(f"compare takes two results folders, or one and two of its "
                            f"optimizers, not {len(compared)} names; see "
                            "`bench-apts compare --help`")
    if markdown:
        print(compared_tables.comparison_markdown(found))
    else:
        _show(found)
    if csv:
        rows = compared_tables.measures_table(found.rows).records()
        session.write_table_file(csv, table.csv_bytes(rows), "name another file with --csv")
    if found.worse:
        raise typer.Exit(1)


def _show(found: StudyComparison) -> None:
    from rich.table import Table

    from bench_apts.reports import compared_tables

    console = session.table_console()
    console.print(f"A: {found.names[0]}\nB: {found.names[1]}", soft_wrap=True)
    for title, rows in compared_tables.row_blocks(found):
        block = Table(box=None, title=title, title_justify="left")
        for head in compared_tables.HEAD:
            block.add_column(head, justify="left" if head in ("measure", "trials", "verdict")
                             else "right")
        for row in rows:
            block.add_row(*map(session.plain_text, compared_tables.row_entries(row)))
        console.print(block)
    for note in found.notes:
        console.print(f"note: {session.plain_text(note)}", soft_wrap=True)
    console.print(session.plain_text(compared_tables.verdict_line(found)), soft_wrap=True)
