"""``report.json``: the page's numbers and sentences for programs; format in docs/formats.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts import __version__

from ..parts import Boxes, Listing, Pictures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..comparison.compared import Compared
    from ..drawing.canvas import Figure
    from ..page import Chapter, Output
    from ..parts import Part
    from ..table import Plain

SCHEMA = 1
"""Version of the format; it grows when a field changes its meaning or goes."""


def report(output: Output) -> bytes:
    """Writes a report's document."""
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


def comparison(compared: Compared, tables: Mapping[str, Iterable[Mapping[str, Plain]]],
               parts: Iterable[Part], verdict: str) -> bytes:
    """Writes the document of a comparison of two studies.

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
                for block in chapter.decision.blocks if isinstance(block, Boxes)
                for box in block.boxes],
            "parts": [_part(part) for part in chapter.parts]}


def _part(part: Part) -> dict[str, Any]:
    figures = [_figure(figure) for block in part.blocks if isinstance(block, Pictures)
               for figure in block.figures]
    tables = [block.table.name for block in part.blocks if isinstance(block, Listing)]
    texts = [block.text for block in part.blocks if not isinstance(
        block, Pictures | Listing | Boxes)]
    return {"slug": part.slug, "title": part.title, "finding": part.finding, "texts": texts,
            "figures": figures, "tables": tables}


def _figure(figure: Figure) -> dict[str, Any]:
    return {"slug": figure.slug, "title": figure.title, "caption": figure.caption,
            "basis": figure.basis, "table": figure.data.name if figure.data else None}


def _tables(tables: Mapping[str, Iterable[Mapping[str, Plain]]]) -> dict[str, Any]:
    return {name: [_plain(row) for row in rows] for name, rows in tables.items()}


def _plain(row: Mapping[str, Plain]) -> dict[str, Plain]:
    """Numbers that JSON has; infinite and unknown ones are null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()}


def _encode(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
