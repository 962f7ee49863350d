"""The reports of many studies as one folder of pages with an index; nothing is fetched from it."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import headline
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SHADES = (1.005, 1.5, 2.5, 5.0)
"""Ratios up to which an entry has the first, second … shade; the last is for all above."""


class GalleryEntry(NamedTuple):
    """One optimizer in one row of the index: what is shown, and which shade it has."""

    text: str
    shade: str


class GalleryRow(NamedTuple):
    """One suite at one N of one study.

    Attributes:
        study: Name of its folder in the site.
        created: When the study was begun.
        suite: The training problem.
        ranks: N.
        anchor: Of the suite on the study's page.
        headline: Which optimizer to take, in one sentence.
        entries: Expected cost over the cheapest's, by optimizer.
    """

    study: str
    created: str
    suite: str
    ranks: int
    anchor: str
    headline: str
    entries: dict[str, GalleryEntry]


def build_gallery(folders: Sequence[Path], out: Path) -> Path:
    """Build each study's report below a folder, and an index of suites and optimizers.

    Args:
        folders: Results folders.
        out: Folder of the site.

    Returns:
        The path of ``index.html``.

    Raises:
        UserError: No folder is given, or ``reports.build`` fails for one of them.
    """
    from bench_apts.reports import build
    from bench_apts.reports.report_page import render_page

    if not folders:
        raise UserError("bench-apts gallery: no folder with a study.json was given")
    names: dict[str, Path] = {}
    for folder in folders:
        names[_free(folder, names)] = folder
    found: list[tuple[str, dict[str, Any]]] = []
    for name, folder in names.items():
        build(folder, ("html", "json", "csv", "svg"), out=out / name)
        found.append((name, json.loads((out / name / "report.json").read_text(encoding="utf-8"))))
    found.sort(key=lambda pair: str(pair[1]["created"]), reverse=True)
    rows = [row for name, report in found for row in _rows(name, report)]
    labels = list(dict.fromkeys(label for row in rows for label in row.entries))
    page = render_page(marks={}, look={}, template="gallery.html.j2", rows=rows, labels=labels,
                       studies=found, absent=GalleryEntry(units.NONE, "none"))
    path = out / "index.html"
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    return path


def _free(folder: Path, taken: dict[str, Path]) -> str:
    """Return a folder name for a study's page: its own, with a number where that is taken."""
    plain = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip(".-") or "study"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _rows(name: str, report: dict[str, Any]) -> list[GalleryRow]:
    """Return a row for each suite and N of a report's document."""
    cost = f"ert_{headline(report['device'])}"
    rows = []
    for index, suite in enumerate(report["suites"]):
        mine = [row for row in report["tables"].get("main", []) if row["suite"] == suite["name"]]
        sizes = sorted({row["ranks"] for row in mine})
        for ranks, decision in zip(sizes, suite["decisions"], strict=False):
            here = [row for row in mine if row["ranks"] == ranks]
            least = min((row[cost] for row in here if row[cost] is not None), default=0.0)
            rows.append(GalleryRow(
                name, report["created"], suite["name"], ranks, f"s{index}", decision["headline"],
                {row["optimizer"]: _entry(row, row[cost], least) for row in here}))
    return rows


def _entry(row: dict[str, Any], cost: float | None, least: float) -> GalleryEntry:
    if cost is None:
        trials = row["trials"]
        return GalleryEntry(f"missed: 0 of {trials}" if trials else units.NONE,
                            "missed" if trials else "none")
    ratio = cost / least if least else math.nan
    shade = sum(ratio > end for end in _SHADES)
    return GalleryEntry(units.digits(ratio) if least else units.NONE, f"shade{shade}")
