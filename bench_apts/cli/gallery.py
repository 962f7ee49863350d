"""``bench-apts gallery``: the reports of many studies as one static site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
    results: Annotated[list[Path], Argument(
        metavar="RESULTS …", show_default=False,
        help="Results folders, for instance results/*. What holds no study is left out.")],
    out: Annotated[Path, Option(help="Folder of the site.")] = Path("site"),
) -> None:
    """Join the reports of studies into a static site."""
    from bench_apts.reports.study_gallery import build_gallery

    studies = [folder for folder in results if (folder / "study.json").exists()]
    for folder in results:
        if folder not in studies:
            print(f"note: {folder} holds no study.json and is left out")
    print(f"gallery: {build_gallery(studies, out)}")
