"""Texts and token shards for language models, cut into windows of tokens.

Token shards are those of modded-nanogpt: a header of 256 integers, then tokens of 16 bits.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench_apts.core.errors import UserError, unknown
from bench_apts.suites.readers import reader_paths
from bench_apts.suites.readers.split_checks import checked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bench_apts.suites.readers.reader_paths import PathName
    from bench_apts.suites.readers.split_checks import Splits

NEEDED_BYTES = {"char": 24, "byte": 4}
"""Of memory for each byte of a text, while its tokens are numbered."""


def text(file: PathName, context: int = 64, level: Literal["char", "byte"] = "char",
         validation_share: float = 0.1, test_share: float = 0.1, data_dir: PathName | None = None
         ) -> Splits:
    """Read a text as windows of tokens, each with the token that follows.

    The text is cut by position: first the training part, then the validation part, then the test
    part. Each part is cut into windows that follow each other, so that every token of a part but
    its first is a target exactly once, apart from fewer than ``context`` at its end.

    Characters are numbered in the sorted order of those in the training part. If other parts have
    characters that it lacks, these share the number after the last one, with a ``UserWarning``.

    Args:
        file: A text in UTF-8; any file at the level of bytes.
        context: Tokens in a window, at least 1.
        level: A token is a character (Unicode code point), or a byte with its value as number.
        validation_share: Of the text's tokens, rounded down.
        test_share: Of the text's tokens, rounded down.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs and targets ``(windows, context)``, uint16 (int64 with more than 65,536
        characters), views into one array for each part.

    Raises:
        UserError: The file is missing or not UTF-8, a part has less than one window, or an option
            has another value.
    """
    path = reader_paths.existing(file, data_dir)
    if level not in NEEDED_BYTES:
        raise unknown("level", level, NEEDED_BYTES)
    reader_paths.require_memory(NEEDED_BYTES[level] * path.stat().st_size, path)
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise UserError(f"validation_share = {validation_share} and test_share = {test_share}: "
                        "each must be more than 0, and both together less than 1")
    parts = cut(_codes(path, level), validation_share, test_share)
    if level == "char":
        parts = _numbered(parts, path)
    return checked({part: windows(tokens, context, f"{path}, {part} part")
                    for part, tokens in parts.items()}, path)


def cut(tokens: NDArray[Any], validation_share: float, test_share: float
        ) -> dict[str, NDArray[Any]]:
    """Return three contiguous parts of a sequence, as views; shares are rounded down."""
    test = int(len(tokens) * test_share)
    validation = int(len(tokens) * validation_share)
    train = len(tokens) - validation - test
    return {"train": tokens[:train], "validation": tokens[train:train + validation],
            "test": tokens[train + validation:]}


def windows(tokens: NDArray[Any], context: int, where: object
            ) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return inputs and targets of consecutive windows, ``(n, context)``, as views.

    Targets are one position later. A sequence shorter than a window and the token after it is
    refused.
    """
    if context < 1:
        raise UserError(f"context = {context}: expected at least 1 token")
    number = (len(tokens) - 1) // context
    if number < 1:
        raise UserError(f"{where} has {len(tokens)} tokens, fewer than the {context + 1} of one "
                        "window and the token after it; use a longer text or a smaller context")
    end = number * context
    return tokens[:end].reshape(number, context), tokens[1:end + 1].reshape(number, context)


def _codes(path: Path, level: str) -> NDArray[Any]:
    """Return the text's bytes (as uint16) or code points (uint32)."""
    content = reader_paths.read_bytes(path)
    if level == "byte":
        return np.frombuffer(content, dtype=np.uint8).astype(np.uint16)
    try:
        return np.frombuffer(content.decode("utf-8").encode("utf-32-le"), dtype="<u4")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it, "
                        'or use level = "byte"') from error


def _numbered(parts: dict[str, NDArray[Any]], path: Path) -> dict[str, NDArray[Any]]:
    """Return code points as numbers into the training part's characters."""
    known = np.unique(parts["train"])
    dtype = np.uint16 if len(known) < 2**16 else np.int64
    numbers: dict[str, NDArray[Any]] = {}
    for part, codes in parts.items():
        found = np.searchsorted(known, codes)
        strange = known[np.minimum(found, len(known) - 1)] != codes
        if strange.any():
            shown = ", ".join(repr(chr(code)) for code in np.unique(codes[strange])[:5])
            warnings.warn(f"{path}: {int(strange.sum()):,} characters of the {part} part do not "
                          f"occur in the training part ({shown}); they share the number "
                          f"{len(known)}", stacklevel=3)
            found[strange] = len(known)
        numbers[part] = found.astype(dtype)
    return numbers


MAGIC, VERSION = 20_240_520, 1
HEADER = 256
"""Integers of 32 bits: magic number, version, number of tokens, zeros."""


def tokens(pattern: str, context: int = 1_024, vocabulary: int = 50_257,
           data_dir: PathName | None = None) -> Splits:
    """Read shards of tokens as windows, each with the token that follows.

    Files with ``train`` in their name are training shards, files with ``val`` those of the test
    split (there is no third one: the harness sets validation samples apart from the training
    samples). The shards of a split follow each other in the order of their names, as one sequence.

    Args:
        pattern: Of the files' paths, such as ``fineweb10B/fineweb_*.bin``.
        context: Tokens in a window, at least 1.
        vocabulary: The number of different tokens; 50,257 of GPT-2.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs and targets uint16 ``(windows, context)``, views into one array for
        each split, which is mapped from the file if there is one shard.

    Raises:
        UserError: A split has no file, a file is damaged or has a token outside the vocabulary.
    """
    paths = reader_paths.matching(pattern, data_dir)
    if not paths:
        looked = " and ".join(str(place) for place in reader_paths.candidates(pattern, data_dir))
        raise UserError(f"{looked}: no token shards there; put them into the folder that "
                        "--data-dir or BENCH_APTS_DATA names, with 'train' and 'val' in their "
                        "names, or give the option pattern")
    parts = {part: [path for path in paths if word in path.name]
             for part, word in (("train", "train"), ("test", "val"))}
    for part, chosen in parts.items():
        if not chosen:
            word = "train" if part == "train" else "val"
            raise UserError(f"{pattern}: none of the {len(paths)} files found has '{word}' in its "
                            "name; correct the pattern or rename the shards")
    splits = {part: windows(_joined(chosen, vocabulary), context, f"{pattern}, split {part}")
              for part, chosen in parts.items()}
    return checked(splits, pattern)


def _joined(paths: list[Path], vocabulary: int) -> NDArray[Any]:
    """Return the tokens of shards as one sequence, uint16 ``(n,)``."""
    shards = [_shard(path) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        for start in range(0, len(shard), 2**24):
            most = int(shard[start:start + 2**24].max())
            if most >= vocabulary:
                raise UserError(f"{path} holds token {most}, outside the vocabulary of "
                                f"{vocabulary}; give the option vocabulary of its tokenizer")
    if len(shards) == 1:
        return shards[0]
    joined, start = reader_paths.room((sum(map(len, shards)),), np.uint16, paths[0].parent), 0
    for shard in shards:
        joined[start:start + len(shard)] = shard
        start += len(shard)
    return joined


def _shard(path: Path) -> NDArray[Any]:
    """Return the tokens of one file, mapped read-only."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, dtype="<i4", count=HEADER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(header) < HEADER or header[0] != MAGIC or header[1] != VERSION:
        raise UserError(f"{path} does not begin as a token shard (numbers {MAGIC} and {VERSION}, "
                        f"then {HEADER - 2} more of 32 bits); write or fetch it again")
    if header[2] < 1 or size != 4 * HEADER + 2 * int(header[2]):
        raise UserError(f"{path} has {size:,} bytes, its header says {int(header[2]):,} tokens of "
                        "2 bytes; fetch it again")
    return np.memmap(path, dtype="<u2", mode="r", offset=4 * HEADER, shape=(int(header[2]),))
