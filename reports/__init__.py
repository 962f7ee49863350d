"""Records in; one HTML page, tables, figures and the same for programs out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench_apts.core.errors import UserError, unknown
from bench_apts.core.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FORMATS = ("html", "csv", "svg", "png", "json", "md", "pdf", "notebook")
"""What can be written: see ``build``."""

STANDARD = ("html", "csv", "svg", "json")
"""What is written by default: all that takes little time and no browser."""

_WRITERS = 8
"""Files that are written at a time."""


def build(folder: Path, formats: Sequence[str] = STANDARD, *, out: Path | None = None,
          history: Path | None = None) -> Path:
    """Write the report of a results folder, from its records alone.

    The same records give the same bytes, except of the PDF, which holds its date. A script that
    calls this has to guard it by ``if __name__ == "__main__"``, as a worker process is spawned.

    Args:
        folder: A folder that ``bench-apts run`` wrote, with ``study.json`` and ``trials/``.
        formats: Of ``FORMATS``: ``html``: ``report.html``, which needs no other file; ``csv``:
            ``tables/*.csv``, numbers in base units; ``svg`` and ``png``: ``figures/*``;
            ``json``: ``report.json`` (docs/formats.md); ``md``: ``report.md``, at most 60 lines;
            ``pdf``: ``report.pdf``, the page as a browser prints it; ``notebook``:
            ``report.ipynb``, executed, with the files of ``csv`` and ``json`` that it reads.
        out: Where to write, ``folder`` itself by default.
        history: asv's results folder, whose numbers over commits the report is to show.

    Returns:
        The path of the page, or without ``html`` the folder that was written to.

    Raises:
        UserError: There is no study, one of its files is broken, none of its trials has ended
            yet, a format is unknown, there is nothing to print a PDF with, or the folder cannot
            be written.
    """
    from bench_apts.core.store import collect_only_new
    from bench_apts.reports.gather import gather

    _check(formats)
    if "notebook" in formats:
        formats = (*formats, "csv", "json")
    past = None
    if history is not None:
        from bench_apts.reports.asv_results import read_history

        past = read_history(history)
    with collect_only_new(lambda: gather(folder)) as gathered:
        _make(out or folder)
        # Drawing libraries take a second to import: not before there is something to draw.
        from bench_apts.reports import report_formats
        from bench_apts.reports.report_page import compose_report
        from bench_apts.reports.workers import start_workers

        with start_workers(bool({"html", "svg", "pdf"}.intersection(formats))) as workers:
            output = compose_report(gathered, past, workers.draw)
            return _write(out or folder, "report", formats, output.page, output.files | {
                "report.json": lambda: report_formats.report_document(output),
                "report.md": lambda: report_formats.summary_markdown(output).encode()},
                workers.finish)


def compare(first: Path, second: Path, formats: Sequence[str] = STANDARD, *,
            out: Path | None = None, names: tuple[str, str] | None = None) -> Path:
    """Write the page that puts two studies side by side, with ratios B to A.

    Args:
        first: Results folder of A.
        second: Results folder of B.
        formats: As for ``build``; the files are named ``compared``.
        out: Where to write, ``second`` by default.
        names: How to call them, their paths by default.

    Returns:
        The path of ``compared.html``, or without ``html`` the folder that was written to.

    Raises:
        UserError: As for ``build``; or the studies share nothing that can be compared.
    """
    from bench_apts.reports.gather import gather

    _check(formats)
    if "notebook" in formats:
        raise UserError("--format notebook is of one results folder; leave it out")
    studies = gather(first), gather(second)
    _make(out or second)
    from bench_apts.reports import compared_page

    output = compared_page.compose_comparison(*studies, names or (str(first), str(second)))
    return _write(out or second, "compared", formats, output.page, output.files)


def _check(formats: Sequence[str]) -> None:
    """Refuse before any work what could not be written after it."""
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if "pdf" in formats:
        from bench_apts.reports.report_formats import find_browser

        find_browser()


def _make(folder: Path) -> None:
    """Make the folder to write to before any work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the report to {folder}: {error.strerror}; choose another "
                     "folder with --out")


def _write(folder: Path, stem: str, formats: Sequence[str], page: Callable[[], str],
           files: Mapping[str, Callable[[], bytes]],
           drawn: Callable[[], None] = lambda: None) -> Path:
    """Write what was asked for; the page comes last, when all that it names is there.

    Args:
        folder: Where.
        stem: Name of the page without its ending.
        formats: What was asked for. Nothing else is made: figures take most of a report's time.
        page: Makes the page.
        files: Makes each file.
        drawn: Waits for figures that are being drawn. All else is made before.
    """
    wanted = [name for name in files if name.rpartition(".")[2] in formats]
    pictures = [name for name in wanted if name.endswith((".svg", ".png"))]
    chosen = {name: files[name]() for name in wanted if name not in pictures}
    drawn()
    chosen |= {name: files[name]() for name in pictures}
    html = page().encode() if {"html", "pdf"}.intersection(formats) else b""
    if "pdf" in formats:
        from bench_apts.reports.report_formats import print_pdf

        chosen[f"{stem}.pdf"] = print_pdf(html)
    try:
        for name in chosen:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Each file waits for the disk, and many can wait at once.
        with ThreadPoolExecutor(_WRITERS) as writers:
            list(writers.map(lambda name: write_bytes(folder / name, chosen[name]), chosen))
        if "notebook" in formats:
            from bench_apts.reports import notebook

            write_bytes(folder / notebook.NAME, notebook.notebook_document(folder))
        if "html" not in formats:
            return folder
        write_bytes(folder / f"{stem}.html", html)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder / f"{stem}.html"
