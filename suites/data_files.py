"""Where data lies: facts about the known data sets, and the search for their files.

The order: the user's folder, the ``data`` folder of the cache, a download into the latter.

Downloads the published archives by torchvision, into a folder that is renamed once whole.

They are kept packed: the sha256 of what came, unpacked in memory, is compared with the published
one, and nothing is unpacked onto the disk.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import math
import os
import re
import shutil
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core.errors import UserError
from bench_apts.core.files import require_folder
from bench_apts.suites import arrays, published_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind = Literal["digits", "idx", "batches", "archive", "parquet"]


@dataclass(frozen=True)
class Facts:
    """What is known of a data set beforehand.

    ``mean`` and ``std`` are per channel, of inputs multiplied by ``scale``. ``samples`` counts
    training and test; ``packed_bytes`` is what a download brings.
    """

    shape: tuple[int, ...]
    classes: int
    samples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    itemsize: int = 1
    packed_bytes: int = 0
    column: str = ""

    @property
    def array_bytes(self) -> int:
        """Bytes of the decoded arrays with their int64 targets, rounded up by a megabyte."""
        return self.samples * (math.prod(self.shape) * self.itemsize + 8) + 2**20


KNOWN: dict[str, Facts] = {
    "digits": Facts((64,), 10, 1_797, (0.0,), (1.0,), 1.0, itemsize=4),
    "mnist": Facts((1, 28, 28), 10, 70_000, (0.1307,), (0.3081,), 1 / 255,
                   packed_bytes=12_000_000, column="image"),
    "cifar10": Facts((3, 32, 32), 10, 60_000, (0.4914, 0.4822, 0.4465),
                     (0.2470, 0.2435, 0.2616), 1 / 255, packed_bytes=171_000_000,
                     column="img"),
}

FINGERPRINTS = {
    "digits": "bc60cb899671d9b06a74b21bb869af3da0df4fb63c0d16f0aa86a8901916dbb2",
    "mnist": "f85cbee43a10570f8c591c08a5fd0a97d727150e304c82764c64e9d314111eeb",
}
"""Of the published data. CIFAR-10's parquet files come in another order than its batches."""

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
ARCHIVE = "cifar-10-python.tar.gz"


@dataclass(frozen=True)
class Source:
    """Files of one data set in one layout.

    Their order is that of ``IDX`` or ``BATCHES``; of shards, those for training come first.
    """

    name: str
    kind: Kind
    files: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that change when a file is moved, replaced or edited."""
        parts: list[object] = [arrays.VERSION, self.name, self.kind]
        if self.kind == "digits":
            parts.append(importlib.metadata.version("scikit-learn"))
        for path in self.files:
            about = path.stat()
            parts.append((str(path.resolve()), about.st_size, about.st_mtime_ns))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def is_published(self, sha256: str) -> bool:
        """Says whether arrays with this fingerprint, read from the files, are the published ones.

        The files of torchvision's layouts were compared with the published ones when they were
        read; parquet files may hold anything.
        """
        known = FINGERPRINTS.get(self.name)
        return self.kind != "parquet" if known is None else sha256 == known

    def __str__(self) -> str:
        """Says in words where the data comes from."""
        if self.kind == "digits":
            return "scikit-learn's bundled digits"
        what = {"idx": "IDX files", "batches": "Python batches", "archive": "Python batches",
                "parquet": "parquet files"}[self.kind]
        where = self.files[0] if self.kind == "archive" else self.files[0].parent
        return f"{what} in {where.absolute()}"


def find(name: str, data_dir: Path | None, offline: bool, root: Path) -> Source:
    """Finds the files of a data set, downloading them if nothing else helps.

    Args:
        name: One of ``KNOWN``.
        data_dir: The user's folder, searched first.
        offline: Whether a download is forbidden.
        root: The cache folder.

    Raises:
        UserError: Nothing was found and nothing could be downloaded.
    """
    if name == "digits":
        return Source(name, "digits", ())
    if data_dir is not None:
        require_folder(data_dir, "name the one that holds the data sets by --data-dir or "
                                 "BENCH_APTS_DATA", "the data folder")
    downloads = root / "data"
    incomplete: list[str] = []
    for folder in filter(None, (data_dir, downloads)):
        if source := search(name, folder, incomplete):
            return source
    if not offline:

        download(name, downloads)
        if source := search(name, downloads, incomplete):
            return source
    looked = " and in ".join(str(folder) for folder in (data_dir, downloads) if folder)
    found = f" ({'; '.join(incomplete)})" if incomplete else ""
    raise UserError(
        f"no data for '{name}': looked in {looked}{found}; name its folder by --data-dir or "
        "BENCH_APTS_DATA (layouts: docs/data.md), or drop --offline to download it")


def search(name: str, folder: Path, incomplete: list[str]) -> Source | None:
    """Looks for all layouts in ``folder``; notes in ``incomplete`` what lacks a file.

    Raises:
        UserError: A file cannot be read, or is no parquet file in spite of its name.
    """
    try:
        usual = _idx if name == "mnist" else _batches
        return (usual(folder, incomplete) or _parquet(name, folder, incomplete)
                or _content(name, folder, incomplete))
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror}") from error


def _idx(folder: Path, incomplete: list[str]) -> Source | None:
    for place in (folder / "MNIST" / "raw", folder / "raw", folder):
        found = []
        for stem in IDX:
            named = [place / f"{stem}.gz", place / stem]
            found += [path for path in named if path.is_file()][:1]
        if len(found) == len(IDX):
            return Source("mnist", "idx", tuple(found))
        if found:
            there = {path.name.removesuffix(".gz") for path in found}
            incomplete.append(f"{place} lacks {', '.join(s for s in IDX if s not in there)}")
    return None


def _batches(folder: Path, incomplete: list[str]) -> Source | None:
    for place in (folder / "cifar-10-batches-py", folder):
        files = tuple(place / name for name in BATCHES)
        missing = [path.name for path in files if not path.is_file()]
        if not missing:
            return Source("cifar10", "batches", files)
        if len(missing) < len(files):
            incomplete.append(f"{place} lacks {', '.join(missing)}")
        if (place / ARCHIVE).is_file():
            return Source("cifar10", "archive", (place / ARCHIVE,))
    return None


def _content(name: str, folder: Path, incomplete: list[str]) -> Source | None:
    """Looks for the published files under any other name, by what they hold."""
    names: tuple[str, ...] = IDX if name == "mnist" else BATCHES
    kind: Kind = "idx" if name == "mnist" else "batches"
    found = published_files.recognised(folder, names, kind)
    if len(found) == len(names):
        return Source(name, kind, tuple(found[each] for each in names))
    if found and not incomplete:
        incomplete.append(f"{folder} lacks {', '.join(n for n in names if n not in found)}")
    if name == "cifar10":
        for path in published_files.beginning(folder, "archive"):
            return Source(name, "archive", (path,))
    return None


_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


def _parquet(name: str, folder: Path, incomplete: list[str]) -> Source | None:
    configuration = {"mnist": "mnist", "cifar10": "plain_text"}[name]
    for place in (folder / name / configuration, folder / name / "data", folder / name,
                  folder / configuration, folder / "data", folder):
        train = sorted(place.glob("train-*.parquet"))
        test = sorted(place.glob("test-*.parquet"))
        if not train and not test:
            continue
        if any(not _has_column(path, KNOWN[name].column) for path in (*train, *test)):
            continue  # another data set: `folder` itself may hold any
        if not train or not test or not (_all_shards(train) and _all_shards(test)):
            incomplete.append(f"{place} lacks some of its train-*.parquet or test-*.parquet")
            continue
        return Source(name, "parquet", (*train, *test))
    return None


def _has_column(path: Path, column: str) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {column, "label"} <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable parquet file ({reason}); fetch it again "
                        f"({os.path.getsize(path):,} bytes here)") from error


def _all_shards(files: list[Path]) -> bool:
    counts = {int(match[2]) for path in files if (match := _SHARD.search(path.name))}
    return not counts or counts == {len(files)}


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
        plain = published_files.read(path)
        if path.name == ARCHIVE:
            for _ in published_files.members(path, plain, BATCHES):
                pass  # each is checked as it is read
        else:
            published_files.checked(path, path.stem, plain)
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
