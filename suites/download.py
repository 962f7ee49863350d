"""Downloads by torchvision, into a folder beside that is renamed once it is whole."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import tarfile
import urllib.error
from typing import TYPE_CHECKING

from bench_apts.errors import UserError

from . import arrays
from .sources import KNOWN, search

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = {"mnist": "MNIST", "cifar10": "cifar-10-batches-py"}
"""What torchvision makes of each data set, below its root."""


def download(name: str, folder: Path) -> None:
    """Fetches a data set into ``folder``, in torchvision's own layout.

    Raises:
        UserError: The network, the server or the disk does not allow it; says how to go on.
    """
    target = folder / FOLDERS[name]
    with arrays.writable(folder), arrays.locked(target):
        if search(name, folder, []):  # another process was faster
            return
        partial = folder / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process; we hold the lock
        arrays.require_space(folder, KNOWN[name].raw_bytes)
        patience = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(30)  # torchvision sets none: a dead network would hang
            fetch(name, partial)
            shutil.rmtree(target, ignore_errors=True)
            (partial / FOLDERS[name]).rename(target)
        except (urllib.error.URLError, http.client.HTTPException, RuntimeError, TimeoutError,
                ConnectionError, ssl.SSLError, tarfile.TarError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot download '{name}' ({reason}); connect to the network, or bring the "
                "data yourself: --data-dir or BENCH_APTS_DATA (layouts: docs/data.md)"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
            shutil.rmtree(partial, ignore_errors=True)


def fetch(name: str, root: Path) -> None:
    """Lets torchvision download and unpack below ``root``, checksums included."""
    from torchvision import datasets  # imports torch: seconds, and only here

    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    kind(root=str(root), train=True, download=True)
