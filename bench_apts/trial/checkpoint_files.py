"""Checkpoints on disk: complete or absent, verified before use, and without code in them.

``<study>/checkpoints/<run_id>/<samples>/`` holds ``rank-<r>.pt`` of each rank, whose state may
differ from the others', and ``checkpoint.json``. A chain of sha256 leads from the trial's record
over ``checkpoint.json`` to the ranks' files:

    record of the trial ──sha256──> checkpoint.json ──sha256──> rank-0.pt, rank-1.pt, …

Ranks write into ``.part-<samples>``, which is renamed when all have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench_apts.core.errors import UserError
from bench_apts.core.files import UNREADABLE, require_regular_file, write_bytes

if TYPE_CHECKING:
    import torch

FOLDER = "checkpoints"
"""Name of the folder in a study's folder."""

FORMAT = 3
"""Of format 1, in which metadata and tensors of a rank were apart, nothing is read."""

_MANIFEST = "checkpoint.json"
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(Struct, forbid_unknown_fields=True):
    """``checkpoint.json``: whose state, how far, and the sha256 of each rank's file."""

    run_id: str
    step: int
    samples: int
    ranks: list[Digest]
    format: int = 1


def write_rank(folder: Path, samples: int, rank: int, state: Any) -> str:
    """Write one rank's part of a checkpoint, which is complete once ``commit`` returns.

    Args:
        folder: The trial's folder of checkpoints.
        samples: How far the trial is, which names the checkpoint.
        rank: This rank.
        state: What ``warmup.plain_state`` returned.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: It cannot be written.
    """
    import torch

    if not folder.parent.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent.parent} is not on this machine: ranks on several "
                                "machines need a results folder that they share")
    path = _rank_file(_part(folder, samples), rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # not by its path: on a full disk torch would not say so
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return _sha256(path)


def commit(folder: Path, manifest: Manifest) -> str:
    """Make a checkpoint of the parts that all ranks have written.

    Returns:
        The sha256 of its ``checkpoint.json``.

    Raises:
        OSError: It cannot be written.
        FileNotFoundError: A rank's part is missing.
    """
    part, whole = _part(folder, manifest.samples), folder / str(manifest.samples)
    for rank in range(len(manifest.ranks)):
        if not _rank_file(part, rank).exists():
            raise FileNotFoundError(f"the part of rank {rank} is not in {part}: ranks on "
                                    "several machines need a results folder that they share")
    content = msgspec.json.encode(manifest)
    write_bytes(part / _MANIFEST, content)
    _flush_names(part)
    part.rename(whole)
    _flush_names(folder)
    return hashlib.sha256(content).hexdigest()


def sweep(folder: Path, but: int | None = None) -> None:
    """Remove a trial's checkpoints and unfinished ones; the folder too if nothing is left.

    Args:
        folder: The trial's folder of checkpoints.
        but: Samples of the one that stays.
    """
    if but is None:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other trials have checkpoints, or none ever had
            folder.parent.rmdir()
        return
    for path in folder.iterdir():
        if path.name != str(but):
            shutil.rmtree(path, ignore_errors=True)


def problem(folder: Path, samples: int, sha256: str, run_id: str, ranks: int) -> str | None:
    """Verify a checkpoint, without torch and without trusting a byte of it.

    Args:
        folder: The trial's folder of checkpoints.
        samples: Which of them.
        sha256: What the trial's record says of its ``checkpoint.json``.
        run_id: The trial.
        ranks: Its world size.

    Returns:
        Why it cannot be used, in one line; None if it can.
    """
    whole = folder / str(samples)
    try:
        content = _require_regular(whole / _MANIFEST).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{whole / _MANIFEST} is not what was written"
        manifest = msgspec.json.decode(content, type=Manifest)
        if manifest.format != FORMAT:
            return f"{whole} has the format of another version of bench-apts"
        if (manifest.run_id, manifest.samples, len(manifest.ranks)) != (run_id, samples, ranks):
            return f"{whole} belongs to another trial"
        for rank, digest in enumerate(manifest.ranks):
            path = _rank_file(whole, rank)
            if _sha256(path) != digest:
                return f"{path} is not what was written"
    except (OSError, UserError, *UNREADABLE) as error:
        return f"{whole} is damaged: {error}"
    return None


def read_rank(folder: Path, samples: int, rank: int, device: torch.device) -> Any:
    """Read one rank's state, of a checkpoint in which ``problem`` found none.

    Args:
        folder: The trial's folder of checkpoints.
        samples: Which of them.
        rank: This rank.
        device: Where tensors go that were not on the CPU.

    Raises:
        pickle.UnpicklingError: The file holds anything but tensors and plain values.
    """
    import torch

    def placed(storage: Any, place: str) -> Any:
        return storage if place == "cpu" else storage.to(device=device)

    # Not memory-mapped: a stepper may keep the tensors, and train on, when the file is gone.
    return torch.load(_rank_file(folder / str(samples), rank), placed, weights_only=True)


def _part(folder: Path, samples: int) -> Path:
    return folder / f".part-{samples}"


def _rank_file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / f"rank-{rank}.pt"


def _require_regular(path: Path) -> Path:
    """Return the path; reading a pipe or a device might never end."""
    if path.exists():
        require_regular_file(path, "the trial starts again")
    return path


def _sha256(path: Path) -> str:
    with _require_regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_names(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
