"""Files of the known data sets: the search for them, their decoding, and the download.

A folder may hold the published files or parquet files as on the Hugging Face hub. Published files
are recognised by the sha256 of their unpacked content: in the usual places by their names, which
is fast, elsewhere whatever their names. Those with the right checksum are laid out as torchvision
expects them, and read by ``torchvision.datasets``; nothing else is made of a file. What a file is
unpacked to is bounded, and links and paths within an archive mean nothing.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.metadata
import io
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench_apts.core.errors import UserError, describe_error
from bench_apts.suites import arrays
from bench_apts.suites.arrays import stratified
from bench_apts.suites.known_data import FINGERPRINTS, KNOWN
from bench_apts.suites.readers import parquet_files, torchvision_data
from bench_apts.suites.readers.image_files import Shape
from bench_apts.suites.readers.split_checks import numbered

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from bench_apts.suites.arrays import Arrays
    from bench_apts.suites.known_data import KnownData

DIGITS_TEST = 300

MAX_BYTES = 200_000_000
"""More than any published file has, packed (170,498,071) or unpacked (186,163,200)."""

MAX_DEPTH = 3
"""Levels of folders below the user's that are searched for files under other names."""

MAX_ENTRIES = 1_000
"""A folder with more entries holds no published files, but images or a whole disk."""

_GZIP = b"\x1f\x8b"

_START_BYTES = 2_048
"""The header of a tar archive's first member lies within, also behind an extended one."""


class IncompleteData(Exception):
    """Some files of a data set are missing; the message says which, or is empty."""


@dataclass(frozen=True)
class Source:
    """Files that may hold a data set.

    ``kind`` is ``digits``, ``named`` for published files in a usual place, ``content`` for files
    that begin like published ones, or ``parquet``.
    """

    name: str
    kind: Literal["digits", "named", "content", "parquet"]
    folder: Path = Path()
    files: tuple[Path, ...] = ()

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
        """Return whether arrays with this fingerprint are the published ones.

        Published files were compared when they were read; parquet files may hold other data.
        """
        known = FINGERPRINTS.get(self.name)
        return self.kind != "parquet" if known is None else sha256 == known


def sources(name: str, folder: Path) -> Iterator[Source]:
    """Yield what may hold a data set in a folder, the best first."""
    known = KNOWN[name]
    try:
        for place in (folder / known.folder, folder / "raw", folder):
            if files := _named(known, place):
                yield Source(name, "named", place, files)
        for place in (folder / name / known.configuration, folder / name / "data", folder / name,
                      folder / known.configuration, folder / "data", folder):
            files = (*sorted(place.glob("train-*.parquet")), *sorted(place.glob("test-*.parquet")))
            # A folder of another data set may be meant for another suite.
            if files and all(_may_have(path, {known.column, "label"}) for path in files):
                yield Source(name, "parquet", place, files)
        if files := tuple(_beginning(known.start, folder)):
            yield Source(name, "content", folder, files)
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror}") from error


def _named(known: KnownData, place: Path) -> tuple[Path, ...]:
    """Return the published files with their own names in a folder, packed or not."""
    found = []
    for name in known.sha256:
        found += [path for path in (place / name, place / f"{name}.gz") if path.is_file()][:1]
    if known.archive and (place / known.archive).is_file():
        found.append(place / known.archive)
    return tuple(found)


def _may_have(path: Path, columns: set[str]) -> bool:
    """Return whether a parquet file has columns; damaged files are left to the reader."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return columns <= set(pq.read_schema(path).names)
    except PermissionError:
        raise
    except (pa.ArrowException, OSError):
        return True


def _beginning(start: re.Pattern[bytes], folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and those below it whose unpacked content begins so."""
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        if depth == MAX_DEPTH or len(folders) + len(files) > MAX_ENTRIES:
            folders.clear()
        if len(folders) + len(files) > MAX_ENTRIES:
            continue
        folders.sort()
        for path in (Path(place, name) for name in sorted(files)):
            if start.match(_start(path)):
                yield path


def _start(path: Path) -> bytes:
    """Return the first bytes of what a file holds; none of a file that cannot be published."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return b""
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        if start.startswith(_GZIP):
            with gzip.open(path) as packed:
                start = packed.read(_START_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""
    return start


def decode(source: Source, scratch: Path) -> tuple[Arrays, str]:
    """Return the arrays of a source, as in ``data.Dataset``, and say where they come from.

    ``scratch`` is a folder that does not exist yet, for unpacked files.

    Raises:
        IncompleteData: Files are missing.
        UserError: A file is damaged, not the published one, or of another shape.
    """
    if source.kind == "digits":
        return _digits(), "scikit-learn's bundled digits"
    if source.kind == "parquet":
        return _parquet(source), f"parquet files in {source.folder.absolute()}"
    known = KNOWN[source.name]
    where = _lay_out(source, scratch / known.folder)
    return _torchvision(known, scratch), f"{known.files} in {where.absolute()}"


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = (bunch.data / 16.0).astype(np.float32)
    targets = bunch.target.astype(np.int64)
    train, test = stratified(targets, DIGITS_TEST, seed=0)
    return {"train_inputs": inputs[train], "train_targets": targets[train],
            "test_inputs": inputs[test], "test_targets": targets[test]}


def _parquet(source: Source) -> Arrays:
    known = KNOWN[source.name]
    for part in ("train", "test"):
        if not any(path.name.startswith(part) for path in source.files):
            raise IncompleteData(f"{source.folder} lacks its {part}-*.parquet")
    read, where = parquet_files.read_splits(source.files, known.column, "label",
                                            Shape.of(None, None))
    labels = numbered({part: pair[1] for part, pair in read.items()}, where)
    splits = {part: (pair[0], labels[part]) for part, pair in read.items()}
    for x, y in splits.values():
        if x.shape != (len(y), *known.shape) or not len(y):
            raise UserError(f"{source.folder}: {x.shape} images with {len(y)} labels, where "
                            f"'{source.name}' has images of the shape {known.shape}")
        if y.min() < 0 or y.max() >= known.classes:
            raise UserError(f"{source.folder}: labels from {y.min()} to {y.max()}, where "
                            f"'{source.name}' has 0 to {known.classes - 1}")
    return arrays.by_name(splits)


def _lay_out(source: Source, place: Path) -> Path:
    """Write the unpacked published files into a folder; return the file or folder they are from.

    Of a ``named`` source each file must be the published one; files of a ``content`` source that
    are something else are skipped.
    """
    known = KNOWN[source.name]
    wanted = {sha256: name for name, sha256 in known.sha256.items()}
    place.mkdir(parents=True)
    found: dict[str, Path] = {}
    for path in source.files:
        try:
            for name, content in _contents(path):
                actual = hashlib.sha256(content).hexdigest()
                if actual in wanted:
                    (place / wanted[actual]).write_bytes(content)
                    found[wanted[actual]] = path
                elif name in known.sha256:
                    raise UserError(f"{path}: {name} is not the published file (sha256 {actual}, "
                                    f"expected {known.sha256[name]}): damaged, incomplete or "
                                    "another one; fetch it again")
        except UserError:
            if source.kind == "named":
                raise
        if len(found) == len(wanted):
            break
    missing = [name for name in known.sha256 if name not in found]
    if missing:
        where = source.files[0] if len(source.files) == 1 else source.folder
        raise IncompleteData(f"{where} lacks {', '.join(missing)}"
                             if found or source.kind == "named" else "")
    last = found[next(iter(known.sha256))]
    return last if set(found.values()) == {last} else last.parent


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and unpacked content of a file, or of the regular files in CIFAR-10's archive."""
    content = _unpacked(path)
    if b"cifar-10-batches-py/" not in content[:_START_BYTES]:
        yield path.name.removesuffix(".gz"), content
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                inside = PurePosixPath(member.name)
                if member.isreg() and str(inside.parent) == "cifar-10-batches-py":
                    file = tar.extractfile(member)
                    assert file is not None
                    yield inside.name, file.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is a damaged archive ({error}); fetch it again") from error


def _unpacked(path: Path) -> bytes:
    """Return what a file holds, unpacked where it is a gzip file, whatever its name."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path} has {size:,} bytes, more than the published file; fetch it "
                            "again")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} unpacks to more than {MAX_BYTES:,} bytes, which no published "
                        "file does; fetch it again")
    return content


def _torchvision(known: KnownData, root: Path) -> Arrays:
    """Return the arrays of files that lie as torchvision expects them."""
    from torchvision import datasets

    kind = getattr(datasets, known.torchvision)
    if hasattr(kind, "meta"):
        # CIFAR10 also insists on a file with the classes' names, which are not needed here, and
        # which some copies lack: the labels of the test batch take their place.
        kind = type(kind.__name__, (kind,), {
            "meta": {"filename": kind.test_list[0][0], "key": "labels", "md5": None}})
    splits = {}
    for part, dataset in torchvision_data.opened(kind, root, offline=True, options={}).items():
        images = np.asarray(dataset.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        splits[part] = images, np.asarray(dataset.targets, dtype=np.int64)
    return arrays.by_name(splits)


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def download(name: str, folder: Path) -> None:
    """Let torchvision download a data set into its layout below ``folder``.

    The caller holds a lock. Files lie in a temporary folder until all are complete.

    Raises:
        UserError: The network or the server does not allow it, or sends other files.
        OSError: The disk does not allow it.
    """
    from torchvision import datasets

    known = KNOWN[name]
    kind: Any = getattr(datasets, known.torchvision)
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    arrays.require_space(folder, known.download_bytes)
    try:
        torchvision_data.fetch(kind, {"root": partial})
        top = PurePosixPath(known.folder).parts[0]
        shutil.rmtree(folder / top, ignore_errors=True)
        (partial / top).rename(folder / top)
    except torchvision_data.FAILURES as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise
        url = getattr(kind, "url", None) or kind.mirrors[0]
        raise UserError(f"cannot download {url} ({describe_error(error)}); connect to the "
                        "network, or bring the data yourself: --data-dir or BENCH_APTS_DATA "
                        "(layouts: docs/data.md)") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
