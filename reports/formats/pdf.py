"""Prints a page to PDF by a browser, since only a browser lays it out as it is read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench_apts.core.errors import UserError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
             "microsoft-edge", "msedge")

_PATIENCE_S = 120.0


def browser() -> str:
    """Returns the path of a browser that prints without a window.

    Raises:
        UserError: There is none on the search path.
    """
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise UserError("--format pdf: there is no Chromium, Chrome or Edge on the search path "
                        "to print with; install one, or print report.html from any browser")
    return found


def printed(html: bytes) -> bytes:
    """Prints a page that needs no other file.

    Raises:
        UserError: There is no browser, or it does not print.
    """
    path = browser()
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
            told = done.stderr.strip().splitlines()
            raise UserError(f"--format pdf: {path} failed to print the page"
                            f"{': ' + told[-1] if told else ''}; print report.html by hand")
        return target.read_bytes()
