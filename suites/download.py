"""Downloads the published archives by torchvision, into a folder that is renamed once whole.

They are kept packed: the sha256 of what came, unpacked in memory, is compared with the published
one, and nothing is unpacked onto the disk.
"""

from __future__ import annotations

import http.client
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core.errors import UserError

from . import arrays, published
from .sources import ARCHIVE, BATCHES, KNOWN, search

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}

_PATIENCE_S = 30.0
"""How long a server may be silent."""


class Archive(NamedTuple):
    """A file to fetch: its place below the folder, where it comes from, and its md5."""

    place: str
    url: str
    md5: str | None


def archives(name: str) -> list[Archive]:
    """Return what torchvision downloads for a data set."""
    from torchvision.datasets import CIFAR10, MNIST

    if name == "mnist":
        return [Archive(f"MNIST/raw/{file}", f"{MNIST.mirrors[0]}{file}", md5)
                for file, md5 in MNIST.resources]
    return [Archive(f"cifar-10-batches-py/{ARCHIVE}", CIFAR10.url, CIFAR10.tgz_md5)]


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
            for archive in archives(name):
                fetch(archive, partial / archive.place)
            shutil.rmtree(target, ignore_errors=True)
            (partial / FOLDERS[name]).rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def fetch(archive: Archive, path: Path) -> None:
    """Writes what a server sends to a file whose name says what it must be.

    Raises:
        UserError: The server cannot be reached, or sends something else.
    """
    from torchvision.datasets.utils import download_url

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _patience():
            download_url(archive.url, path.parent, path.name, archive.md5)
    except (OSError, http.client.HTTPException, RuntimeError, RecursionError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _failed(archive.url, reason) from error
    try:
        plain = published.read(path)
        if path.name == ARCHIVE:
            for _ in published.members(path, plain, BATCHES):
                pass  # each is checked as it is read
        else:
            published.checked(path, path.stem, plain)
    except UserError as error:
        raise _failed(archive.url, "what came is not the published file") from error


@contextmanager
def _patience() -> Iterator[None]:
    """Limits how long sockets wait: torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _failed(url: str, reason: str) -> UserError:
    return UserError(f"cannot download {url} ({reason}); connect to the network, or bring the "
                     "data yourself: --data-dir or BENCH_APTS_DATA (layouts: docs/data.md)")
