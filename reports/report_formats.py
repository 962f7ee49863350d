"""A report's other forms: JSON (docs/formats.md), Markdown for a comment, and PDF."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts import __version__
from bench_apts.core import units
from bench_apts.core.errors import UserError
from bench_apts.core.units import escape_markdown
from bench_apts.reports.decision_answers import Boxes
from bench_apts.reports.section_parts import Listing, Pictures
from bench_apts.reports.table import finite, markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.compared_studies import StudyComparison
    from bench_apts.reports.report_page import Chapter, ReportOutput
    from bench_apts.reports.section_parts import Part
    from bench_apts.reports.table import Plain, Table, Value

SCHEMA = 1
"""Version of the JSON format; it grows when a field changes its meaning or goes."""

LINES = 60
"""Most lines of Markdown; what is said first is what a reader needs most."""

_COLUMNS = ("Optimizer", "Expected cost", "Success", "Time", "Bytes", "Memory")
"""Of the main table, as far as it has them, for Markdown."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
             "microsoft-edge", "msedge")

_PATIENCE_S = 120.0


def report_document(output: ReportOutput) -> bytes:
    """Write a report's document."""
    file = output.gathered.file
    return _encode({
        "schema": SCHEMA, "kind": "report", "bench_apts": __version__,
        "created": file.created, "command": file.command, "device": output.gathered.device,
        "suites": [_chapter(chapter) for chapter in output.chapters],
        "overall": [_part(part) for part in output.overall],
        "warnings": output.warnings,
        "caveats": [{"title": caveat.title, "text": caveat.text} for caveat in output.caveats],
        "provenance": [{"title": card.title, "items": [list(item) for item in card.items]}
                       for card in output.cards],
        "trials": len(output.gathered.trials), "left_out": output.gathered.left_out,
        "tables": _tables(output.tables)})


def comparison_document(compared: StudyComparison,
                        tables: Mapping[str, Iterable[Mapping[str, Plain]]],
                        parts: Iterable[Part], verdict: str) -> bytes:
    """Write the document of a comparison of two studies.

    Args:
        compared: What was compared.
        tables: Rows of plain numbers by name.
        parts: The parts of the page.
        verdict: The answer in one line.
    """
    return _encode({
        "schema": SCHEMA, "kind": "comparison", "bench_apts": __version__,
        "a": compared.names[0], "b": compared.names[1], "verdict": verdict,
        "parts": [_part(part) for part in parts], "notes": list(compared.notes),
        "tables": _tables(tables)})


def _chapter(chapter: Chapter) -> dict[str, Any]:
    suite = chapter.suite
    return {"name": suite.name, "version": suite.version,
            "target": {"metric": suite.target.metric, "direction": suite.target.direction,
                       "value": suite.target.value, "version": suite.target.version},
            "cap": {"samples": suite.budget.samples, "seconds": suite.budget.seconds},
            "decisions": [
                {"heading": box.heading, "verdict": box.verdict, "headline": box.headline,
                 "remarks": list(box.remarks), "answers": [
                     {"question": answer.question, "verdict": answer.verdict,
                      "choice": answer.choice, "detail": answer.detail,
                      "optimizer": answer.label or None, "numbers": _plain(answer.numbers)}
                     for answer in box.answers]}
                for box in chapter.decision.boxes],
            "parts": [_part(part) for part in chapter.parts]}


def _part(part: Part) -> dict[str, Any]:
    tables = [block.table.name for block in part.every_block if isinstance(block, Listing)]
    texts = [block.text for block in part.every_block if not isinstance(
        block, Pictures | Listing | Boxes)]
    return {"slug": part.slug, "title": part.title, "finding": part.finding, "texts": texts,
            "figures": [_figure(figure) for figure in part.figures], "tables": tables}


def _figure(figure: Figure) -> dict[str, Any]:
    return {"slug": figure.slug, "title": figure.title, "caption": figure.caption,
            "basis": figure.basis, "table": figure.data.name if figure.data else None}


def _tables(tables: Mapping[str, Iterable[Mapping[str, Plain]]]) -> dict[str, Any]:
    return {name: [_plain(row) for row in rows] for name, rows in tables.items()}


def _plain(row: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return numbers that JSON has; infinite and unknown ones are null."""
    return {name: finite(value) if isinstance(value, float) else value
            for name, value in row.items()}


def _encode(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def summary_markdown(output: ReportOutput) -> str:
    """Write the summary: decisions, the main numbers at the largest N, findings, caveats."""
    suites = escape_markdown(units.listing([chapter.suite.name for chapter in output.chapters]))
    lines = [f"## {suites}: what it costs to reach the target", ""]
    for warning in output.warnings:
        lines += [f"**{escape_markdown(units.capitalized(warning))}.**", ""]
    for chapter in output.chapters:
        lines += _decisions(chapter)
    for chapter in output.chapters:
        lines += _numbers(chapter)
    found = [part for chapter in output.chapters for part in chapter.parts if part.finding]
    lines += [f"* {escape_markdown(part.title)}: {escape_markdown(part.finding)}"
              for part in (*found, *output.overall)]
    titles = dict.fromkeys(caveat.title for caveat in output.caveats)
    if titles:
        lines += ["", f"Read with care: {escape_markdown('; '.join(titles))}."]
    commit = output.gathered.file.environment.get("commit")
    lines += ["", f"{units.plural(len(output.gathered.trials), 'trial')}, run "
              f"{output.gathered.file.created[:10]}"
              + (f" at commit `{str(commit)[:12]}`" if commit else "") + "."]
    if len(lines) > LINES:
        lines = [*lines[:LINES - 2], "", "… The rest stands in report.html."]
    # A search of the text for a number and its unit does not find a thin space.
    return "\n".join(lines).replace(units.THIN, " ") + "\n"


def _decisions(chapter: Chapter) -> list[str]:
    """Return the answers as a table: a row for each N, a column for each question."""
    boxes = chapter.decision.boxes
    lines = [f"**{escape_markdown(chapter.suite.name)}**, "
             f"{escape_markdown(units.format_goal(chapter.suite.target))}:", ""]
    lines += [f"* {escape_markdown(box.heading)}: {escape_markdown(box.headline)}"
              for box in boxes]
    questions = list(dict.fromkeys(a.question for box in boxes for a in box.answers))
    if not questions:
        return [*lines, ""]
    choices = [(box.heading, {answer.question: answer.choice for answer in box.answers})
               for box in boxes]
    return [*lines, "", *markdown_table(("", *questions), (
        (heading, *(chosen.get(question, units.NONE) for question in questions))
        for heading, chosen in choices)), ""]


def _numbers(chapter: Chapter) -> list[str]:
    """Return the main table's rows at the largest N."""
    table: Table | None = next((
        block.table for part in chapter.parts for block in part.every_block
        if isinstance(block, Listing) and block.table.name == "main"), None)
    if table is None:
        return []
    largest = max(map(_ranks, table.rows))
    columns = [at for at, (title, _) in enumerate(table.head) if title in _COLUMNS]
    return [f"{escape_markdown(chapter.suite.name)} at N = {largest}:", "", *markdown_table(
        (" ".join(filter(None, table.head[at])) for at in columns),
        ([row[at].text for at in columns] for row in table.rows if _ranks(row) == largest),
        ("---", *["---:"] * (len(columns) - 1))), ""]


def _ranks(row: tuple[Value, ...]) -> int:
    return next(int(value.numbers["ranks"]) for value in row  # type: ignore[arg-type]
                if "ranks" in value.numbers)


def find_browser() -> str:
    """Return the path of a browser that prints without a window.

    Raises:
        UserError: There is none on the search path.
    """
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise UserError("--format pdf: there is no Chromium, Chrome or Edge on the search path "
                        "to print with; install one, or print report.html from any browser")
    return found


def print_pdf(html: bytes) -> bytes:
    """Print a page that needs no other file by a browser, as only a browser lays it out.

    Raises:
        UserError: There is no browser, or it does not print.
    """
    path = find_browser()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = folder / "report.html", folder / "report.pdf"
        source.write_bytes(html)
        # Root has no sandbox to enter; the page's own policy lets it load nothing.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        try:
            done = subprocess.run(
                [path, "--headless", "--disable-gpu", *root, f"--user-data-dir={folder / 'user'}",
                 "--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri()],
                capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"--format pdf: {path} did not print the page within "
                            f"{_PATIENCE_S:.0f} s; print report.html by hand") from error
        if done.returncode or not target.exists():
            said = done.stderr.strip().splitlines()
            raise UserError(f"--format pdf: {path} failed to print the page"
                            f"{': ' + said[-1] if said else ''}; print report.html by hand")
        return target.read_bytes()
