"""Where data lies: facts about the known data sets, and the search for their files.

The order: the user's folder, the ``data`` folder of the cache, a download into the latter.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench_apts.core.errors import UserError

from . import arrays, published

if TYPE_CHECKING:
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
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"the data folder {data_dir} (--data-dir or BENCH_APTS_DATA) is no "
                        "folder; name the one that holds the data sets")
    downloads = root / "data"
    incomplete: list[str] = []
    for folder in filter(None, (data_dir, downloads)):
        if source := search(name, folder, incomplete):
            return source
    if not offline:
        from .download import download

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
    found = published.recognised(folder, names, kind)
    if len(found) == len(names):
        return Source(name, kind, tuple(found[each] for each in names))
    if found and not incomplete:
        incomplete.append(f"{folder} lacks {', '.join(n for n in names if n not in found)}")
    if name == "cifar10":
        for path in published.beginning(folder, "archive"):
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
