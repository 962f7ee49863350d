"""Pickles that may hold arrays and nothing else, whatever code loads them.

The published files: their checksums, and how they are read without trusting them.

A file is known by what it holds, unpacked: neither its name nor how it was packed matters. It is
measured before it is read, unpacking stops at the size that the published content has, and the
sha256 is compared before anything is made of the content. Nothing is unpacked onto the disk.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import pickle
import re
import sys
import tarfile
import zlib
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ARRAYS = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
                    ("numpy._core.multiarray", "_reconstruct"), ("numpy", "dtype"),
                    ("_codecs", "encode")})
"""The only names that a pickle may use while a data set is read: those of NumPy's arrays."""

_reading: ContextVar[bool] = ContextVar("reading", default=False)


@contextmanager
def only_arrays() -> Iterator[None]:
    """Refuse what a pickle names, except NumPy's arrays, while the block runs in this thread.

    Raises:
        UserError: A pickle in the block names anything else; it has run nothing then.
    """
    _watch()
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def load_arrays(content: bytes) -> Any:
    """Return what a pickle of Python 2 or 3 holds: arrays in plain containers.

    Raises:
        UserError: It names anything else; it has run nothing then.
        Exception: It is damaged.
    """
    with only_arrays():
        return pickle.loads(content, encoding="latin1")


@functools.cache
def _watch() -> None:
    """Install the audit hook once in a process: it cannot be removed again."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class" and _reading.get() and arguments not in ARRAYS:
        raise UserError(f"a pickle among the data set's files names {'.'.join(arguments)}, which "
                        "may run code; fetch the files again from their publisher")


SHA256: dict[str, str] = {
    "train-images-idx3-ubyte":
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte":
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte":
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte":
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}
"""Of what the published files hold, by name; of an archive its members."""

STARTS = {"idx": re.compile(rb"\0\0\x08[\x01\x03]"), "batches": re.compile(rb"\x80\x02}"),
          "archive": re.compile(rb"(?s).*cifar-10-batches-py/")}
"""What the first bytes of each layout's unpacked files match."""

_START_BYTES = 2_048
"""The header of a tar archive's first member lies within, also behind an extended one."""

MOST_BYTES = 200_000_000
"""More than any published file has, packed (170,498,071) or unpacked (186,163,200)."""

_GZIP = b"\x1f\x8b"

_DEEPEST = 3
"""Levels of folders below the user's that are searched for files under other names."""

_CROWDED = 1_000
"""A folder with more entries holds no published files, but images or a whole disk."""


def read(path: Path) -> bytes:
    """Returns what a file holds, unpacked where it is a gzip file, whatever its name.

    Raises:
        UserError: It cannot be read, is larger than any published file or unpacks to more.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{path} has {size:,} bytes, more than the published file; fetch it "
                            "again")
        return unpacked(path, path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def checked(path: Path, name: str, content: bytes) -> bytes:
    """Returns the unpacked content, unless it is not that of the published file ``name``.

    Raises:
        UserError: The checksum is another one.
    """
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256[name]:
        raise UserError(f"{path} is not the published file {name} (it holds sha256 {actual}, "
                        f"expected {SHA256[name]}): damaged, cut off or another one; fetch it "
                        "again")
    return content


def unpacked(path: Path, content: bytes) -> bytes:
    """Returns what a gzip file holds; the content itself where it is none.

    Args:
        path: The file's name, for messages.
        content: The whole file.

    Raises:
        UserError: It is a damaged gzip file, or holds more than any published file.
    """
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            plain = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no readable gzip file ({error}); fetch it again") from error
    if len(plain) > MOST_BYTES:
        raise UserError(f"{path} unpacks to more than {MOST_BYTES:,} bytes, which no published "
                        "file does; fetch it again")
    return plain


def recognised(folder: Path, names: Collection[str], layout: str) -> dict[str, Path]:
    """Finds published files by what they hold, in a folder and those below it.

    Args:
        folder: Where to look; folders with very many entries are passed by.
        names: Of the files, as in ``SHA256``.
        layout: One of ``STARTS``.
    """
    wanted = {SHA256[name]: name for name in names}
    found: dict[str, Path] = {}
    for path in beginning(folder, layout):
        try:
            name = wanted.get(hashlib.sha256(read(path)).hexdigest())
        except UserError:
            continue
        if name:
            found.setdefault(name, path)
    return found


def beginning(folder: Path, layout: str) -> Iterator[Path]:
    """Yields the files in a folder and those below it that begin as a layout's files do."""
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        if depth == _DEEPEST or len(folders) + len(files) > _CROWDED:
            folders.clear()
        if len(folders) + len(files) > _CROWDED:
            continue
        folders.sort()
        for path in (Path(place, name) for name in sorted(files)):
            if STARTS[layout].match(_start(path)):
                yield path


def _start(path: Path) -> bytes:
    """Returns the first bytes of what a file holds; empty for a file that is not worth reading."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return b""
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        if start.startswith(_GZIP):
            with gzip.open(path) as packed:
                start = packed.read(_START_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""
    return start


def members(path: Path, content: bytes, names: Collection[str]) -> Iterator[tuple[Path, bytes]]:
    """Yields plain files of CIFAR-10's archive, each with its path in it and its content.

    Links, folders and files of any other name, wherever they point, are passed by.

    Args:
        path: The archive's name, for messages.
        content: The unpacked archive.
        names: Of the files, as in ``SHA256``.

    Raises:
        UserError: It is no tar archive, lacks one of the names as a plain file, or one of them
            is not the published file.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for name in names:
                member = tar.getmember(f"cifar-10-batches-py/{name}")
                if not member.isreg():
                    raise UserError(f"{path}: {member.name} is not a plain file; fetch it again")
                file = tar.extractfile(member)
                assert file is not None
                inside = path / member.name
                yield inside, checked(inside, name, file.read())
    except (tarfile.TarError, KeyError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no whole archive ({error}); fetch it again") from error
