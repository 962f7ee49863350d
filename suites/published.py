"""The published files: their sizes and checksums, and how they are read without trusting them.

A file is measured before it is read, its sha256 is compared before it is opened, and unpacking
stops at the size that the published content has. Nothing is ever unpacked onto the disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from typing import TYPE_CHECKING

from bench_apts.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SHA256: dict[str, str] = {
    "train-images-idx3-ubyte.gz":
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz":
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz":
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz":
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "train-images-idx3-ubyte":
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte":
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte":
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte":
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "cifar-10-python.tar.gz":
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}
"""Of the files as their authors publish them, by name, and of those inside their archives."""

MOST_BYTES = 200_000_000
"""More than any published file has, packed (170,498,071) or unpacked (186,163,200)."""


def read(path: Path) -> bytes:
    """Returns the content of a published file.

    Raises:
        UserError: It cannot be read, is larger than any published file, or is another one.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{path} has {size:,} bytes, more than the published file; fetch it "
                            "again")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return checked(path, content)


def checked(path: Path, content: bytes) -> bytes:
    """Returns the content, unless it is not the published one of that name.

    Raises:
        UserError: The checksum is another one.
    """
    expected = SHA256[path.name]
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise UserError(f"{path} is not the published file (sha256 {actual}, expected "
                        f"{expected}): damaged or cut off; fetch it again")
    return content


def unpacked(path: Path, content: bytes) -> bytes:
    """Returns what a gzip file holds.

    Args:
        path: The file's name, for messages.
        content: The whole file.

    Raises:
        UserError: It is no gzip file, or holds more than any published file.
    """
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            plain = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no readable gzip file ({error}); fetch it again") from error
    if len(plain) > MOST_BYTES:
        raise UserError(f"{path} unpacks to more than {MOST_BYTES:,} bytes, which no published "
                        "file does; fetch it again")
    return plain


def members(path: Path, content: bytes, names: Sequence[str]) -> Iterator[tuple[Path, bytes]]:
    """Yields plain files of a tar archive, each with its name and its content.

    Links, folders and files of any other name, wherever they point, are passed by.

    Raises:
        UserError: It is no tar archive, or lacks one of the names as a plain file.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for name in names:
                member = tar.getmember(name)
                if not member.isreg():
                    raise UserError(f"{path}: {name} is no plain file; fetch it again")
                file = tar.extractfile(member)
                assert file is not None
                inside = path / name
                yield inside, checked(inside, file.read())
    except (tarfile.TarError, KeyError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no whole archive ({error}); fetch it again") from error
