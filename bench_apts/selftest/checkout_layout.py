"""Lays a checkout out as pip would install it, where nothing can be installed.

As a program, ``python checkout_layout.py FOLDER`` fills the folder with links into the checkout
and with the entry points by which optimizers and suites are found. It needs Python alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def lay_out(folder: Path) -> None:
    """Fill a folder, which is emptied before."""
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    project = declared["project"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    places: dict[str, str] = declared["tool"]["setuptools"]["package-dir"]
    for package, place in sorted(places.items()):  # a package before those inside it
        shutil.copytree(CHECKOUT / place, folder.joinpath(*package.split(".")),
                        copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    described = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        encoding="utf-8")
    (described / "entry_points.txt").write_text("".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()), encoding="utf-8")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
