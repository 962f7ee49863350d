"""CIFAR-10's Python batches: pickles, taken apart instead of loaded, so that nothing can run.

The standard library's disassembler names the operations of a pickle without doing any. A batch
is a dictionary, whose entries are written one after another: the images are the longest string
of bytes behind the key ``data``, the labels the small integers between the key ``labels`` and
the next one.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_STRINGS = frozenset({"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE",
                      "SHORT_BINUNICODE"})
_KEYS = frozenset({b"batch_label", b"labels", b"data", b"filenames"})


def parse(path: Path, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the images, uint8 ``(n, 3, 32, 32)``, and the labels, int64 ``(n,)``, of a batch.

    Raises:
        UserError: The content has another form.
    """
    pixels, labels, key = b"", [], b""
    try:
        for operation, value, _ in pickletools.genops(content):
            if operation.name in _STRINGS:
                text = _bytes(value)
                if text in _KEYS:
                    key = text
                elif key == b"data" and len(text) > len(pixels):
                    pixels = text
            elif operation.name == "BININT1" and key == b"labels":
                labels.append(value)
        images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 3, 32, 32)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is no CIFAR-10 batch ({error}); fetch it again") from error
    if not labels or len(labels) != len(images):
        raise UserError(f"{path} is no CIFAR-10 batch ({len(images)} images with {len(labels)} "
                        "labels); fetch it again")
    return images, np.array(labels, dtype=np.int64)


def _bytes(value: Any) -> bytes:
    """The disassembler shows a Python 2 string as the text of its bytes in latin-1."""
    return value if isinstance(value, bytes) else value.encode("latin-1", errors="replace")
