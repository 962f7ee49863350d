"""Downloads the published archives into a folder beside that is renamed once it is whole.

They are kept packed: the sha256 of what the network sends, unpacked in memory, is compared with
the published one, and nothing is unpacked onto the disk.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from bench_apts.errors import UserError

from . import arrays, published
from .sources import ARCHIVE, BATCHES, IDX, KNOWN, search

if TYPE_CHECKING:
    from collections.abc import Mapping

URLS: Mapping[str, str] = {
    **{f"MNIST/raw/{stem}.gz": f"https://ossci-datasets.s3.amazonaws.com/mnist/{stem}.gz"
       for stem in IDX},
    f"cifar-10-batches-py/{ARCHIVE}": f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
}
"""Where each file comes from, by its place below the folder; PyTorch's mirror of MNIST."""

FOLDERS = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}

_PATIENCE_S = 30.0
"""How long a server may be silent."""


def download(name: str, folder: Path) -> None:
    """Fetches a data set into ``folder``.

    Raises:
        UserError: The network, the server or the disk does not allow it, or what came is not
            the published file; says how to go on.
    """
    target = folder / FOLDERS[name]
    with arrays.writable(folder), arrays.locked(target):
        if search(name, folder, []):  # another process was faster
            return
        partial = folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process; we hold the lock
        arrays.require_space(folder, KNOWN[name].packed_bytes)
        try:
            for place, url in URLS.items():
                if Path(place).parts[0] == FOLDERS[name]:
                    fetch(url, partial / place)
            shutil.rmtree(target, ignore_errors=True)
            (partial / FOLDERS[name]).rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def fetch(url: str, path: Path) -> None:
    """Writes what a server sends to a file whose name says what it must be.

    Raises:
        UserError: The server cannot be reached, or sends something else.
    """
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
            content = answer.read(published.MOST_BYTES)
    except (OSError, http.client.HTTPException, ssl.SSLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _failed(url, reason) from error
    try:
        plain = published.unpacked(path, content)
        if path.name == ARCHIVE:
            for _ in published.members(path, plain, BATCHES):
                pass  # each is checked as it is read
        else:
            published.checked(path, path.stem, plain)
    except UserError as error:
        raise _failed(url, "what came is not the published file") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _failed(url: str, reason: str) -> UserError:
    return UserError(f"cannot download {url} ({reason}); connect to the network, or bring the "
                     "data yourself: --data-dir or BENCH_APTS_DATA (layouts: docs/data.md)")
