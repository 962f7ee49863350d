"""Records in; one HTML page, tables and figures out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def build(folder: Path) -> Path:
    """Writes the report of a results folder, from its records alone.

    Beside ``report.html``, which needs no other file, lie ``tables/*.csv`` (numbers in base
    units) and ``figures/*.svg`` and ``*.png``. The same records give the same bytes.

    Args:
        folder: A folder that ``bench-apts run`` wrote, with ``study.json`` and ``trials/``.

    Returns:
        The path of the page.

    Raises:
        UserError: There is no study, one of its files is broken, none of its trials has ended
            yet, or the folder cannot be written.
    """
    from bench_apts import store
    from bench_apts.errors import UserError

    from .gather import gather

    gathered = gather(folder)
    # Drawing libraries take a second to import: not before there is something to draw.
    from .page import compose

    output = compose(gathered)
    path = folder / "report.html"
    try:
        for name, content in output.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            store.write_bytes(folder / name, content)
        store.write_bytes(path, output.html.encode())
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    return path
