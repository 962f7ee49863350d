"""The folder in which a command keeps its ranks' logs and the sockets of its fork server."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench_apts.core.errors import UserError, told

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGS, _CLAIM = "apts-logs-", ".claim"
_SOCKET_BYTES = 107
"""Of the path of a socket at most, without the byte that ends it."""

_LONGEST = _SOCKET_BYTES - len(f"/{_LOGS}12345678/listener-12345678")
"""Bytes of the path in which the folder is made, with names as long as Python makes them."""

_FRESH_S = 60.0
"""Younger folders are left alone: their owner may be about to lock them."""


def claimed(sockets: bool) -> tuple[Path, FileLock]:
    """Makes a folder of our own, having removed those of commands that were killed.

    Args:
        sockets: Whether it is to hold sockets.

    Returns:
        The folder, and the lock that says that its owner lives.

    Raises:
        UserError: Its path would be too long for sockets, or is no text.
    """
    place = tempfile.gettempdir()
    length = len(told("the temporary folder", Path(place)).encode())
    if sockets and length > _LONGEST:
        raise UserError(f"the path of the temporary folder {place} has {length} bytes, and the "
                        f"names of sockets leave it {_LONGEST}; set TMPDIR to a shorter one")
    _sweep(Path(place))
    folder = Path(tempfile.mkdtemp(prefix=_LOGS))
    claim = FileLock(folder / _CLAIM)
    claim.acquire()
    return folder, claim


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """Has libraries make their temporary files in a folder, where a later command sweeps them."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _sweep(place: Path) -> None:
    """Removes the folders of commands that were killed; those of living ones are locked."""
    for folder in place.glob(f"{_LOGS}*"):
        with suppress(OSError, Timeout):  # another's, or gone meanwhile
            if time.time() - folder.stat().st_mtime > _FRESH_S:
                with FileLock(folder / _CLAIM).acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
