"""Token shards of modded-nanogpt: a header of 256 integers, then tokens of 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench_apts.core.errors import UserError

from .checks import checked
from .storage import candidates, matching, room
from .texts import windows

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from numpy.typing import NDArray

    from .checks import Splits

MAGIC, VERSION = 20_240_520, 1
HEADER = 256
"""Integers of 32 bits: magic number, version, number of tokens, zeros."""


def tokens(pattern: str, context: int = 1_024, vocabulary: int = 50_257,
           data_dir: str | os.PathLike[str] | None = None) -> Splits:
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
    paths = matching(pattern, data_dir)
    if not paths:
        looked = " and ".join(str(place) for place in candidates(pattern, data_dir))
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
    joined, start = room((sum(map(len, shards)),), np.uint16, paths[0].parent), 0
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
