"""Checkpoints on disk: complete or absent, verified before use, and without code in them.

``<study>/checkpoints/<run_id>/<samples>/`` holds a folder for each rank, whose state may differ
from the others'. Tensors are written by ``torch.distributed.checkpoint`` and load with
``weights_only``; its metadata, which it would pickle, and everything that is no tensor are JSON.
A chain of sha256 leads from the trial's record over ``checkpoint.json`` and each rank's
``state.json`` to the tensors' files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bench_apts.core.errors import UserError
from bench_apts.core.files import UNREADABLE, require_regular_file, write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

FOLDER = "checkpoints"
"""Name of the folder in a study's folder."""

_PART = ".part"
_MANIFEST, _STATE = "checkpoint.json", "state.json"
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Meta(pattern="^[0-9A-Za-z_]+[.][a-z]+$")]


class Manifest(Struct, forbid_unknown_fields=True):
    """``checkpoint.json``: whose state, how far, and the sha256 of each rank's ``state.json``."""

    run_id: str
    step: int
    samples: int
    ranks: list[Digest]


class TensorPlace(Struct, forbid_unknown_fields=True):
    """Where a tensor lies in a rank's files: type and shape, file, and bytes in it."""

    dtype: str
    shape: list[int]
    file: Name
    offset: int
    length: int


class RankState(Struct, forbid_unknown_fields=True):
    """``state.json`` of a rank: its state without tensors, the tensors, the files' sha256."""

    state: Any
    tensors: dict[str, TensorPlace]
    files: dict[Name, Digest]


def write_rank(folder: Path, samples: int, rank: int, state: Any) -> str:
    """Writes one rank's part of a checkpoint, which only ``commit`` makes one.

    Args:
        folder: The trial's folder of checkpoints.
        samples: How far the trial is, which names the checkpoint.
        rank: This rank.
        state: Nested values and tensors; see ``state_tree``.

    Returns:
        The sha256 of its ``state.json``.

    Raises:
        UnsupportedState: The state holds something that is no data.
        OSError: It cannot be written.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    from bench_apts.trial import warmup
    from bench_apts.trial.checkpoints import TensorWriter

    if not folder.parent.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent.parent} is not on this machine: ranks on several "
                                "machines need a results folder that they share")
    part = _part(folder, samples) / f"rank-{rank}"
    part.mkdir(parents=True)
    tree, tensors = warmup.flatten(state)
    writer = TensorWriter(part)
    if tensors:
        with _alone():
            save(dict(tensors), storage_writer=writer, no_dist=True)
    files = {path.name: _sha256(path) for path in sorted(part.iterdir())}
    content = msgspec.json.encode(RankState(tree, writer.places, files))
    write_bytes(part / _STATE, content)
    return hashlib.sha256(content).hexdigest()


def commit(folder: Path, manifest: Manifest) -> str:
    """Makes a checkpoint of the parts that all ranks have written.

    Returns:
        The sha256 of its ``checkpoint.json``.

    Raises:
        OSError: It cannot be written.
        FileNotFoundError: A rank's part is not here.
    """
    part, whole = _part(folder, manifest.samples), folder / str(manifest.samples)
    for rank in range(len(manifest.ranks)):
        if not (part / f"rank-{rank}" / _STATE).exists():
            raise FileNotFoundError(f"the part of rank {rank} is not in {part}: ranks on "
                                    "several machines need a results folder that they share")
    content = msgspec.json.encode(manifest)
    write_bytes(part / _MANIFEST, content)
    part.rename(whole)
    _settle(folder)
    return hashlib.sha256(content).hexdigest()


def sweep(folder: Path, but: int | None = None) -> None:
    """Removes a trial's checkpoints and unfinished ones; the folder too if nothing is left.

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
    """Verifies a checkpoint, without torch and without trusting a byte of it.

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
        content = _read(whole / _MANIFEST)
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{whole / _MANIFEST} is not what was written"
        manifest = msgspec.json.decode(content, type=Manifest)
        if (manifest.run_id, manifest.samples, len(manifest.ranks)) != (run_id, samples, ranks):
            return f"{whole} belongs to another trial"
        for rank, digest in enumerate(manifest.ranks):
            part = whole / f"rank-{rank}"
            content = _read(part / _STATE)
            if hashlib.sha256(content).hexdigest() != digest:
                return f"{part / _STATE} is not what was written"
            state = msgspec.json.decode(content, type=RankState)
            for name, expected in state.files.items():
                if _sha256(part / name) != expected:
                    return f"{part / name} is not what was written"
            stray = {place.file for place in state.tensors.values()} - state.files.keys()
            if stray:
                return f"{part / _STATE} names files that it does not vouch for"
    except (OSError, UserError, *UNREADABLE) as error:
        return f"{whole} is damaged: {error}"
    return None


def read_rank(folder: Path, samples: int, rank: int, device: torch.device) -> Any:
    """Reads one rank's state, of a checkpoint in which ``problem`` found none.

    Args:
        folder: The trial's folder of checkpoints.
        samples: Which of them.
        rank: This rank.
        device: Where tensors go that were not on the CPU.
    """
    import torch
    from torch.distributed.checkpoint.state_dict_loader import load

    from bench_apts.trial import warmup
    from bench_apts.trial.checkpoints import TensorReader

    part = folder / str(samples) / f"rank-{rank}"
    stored = msgspec.json.decode((part / _STATE).read_bytes(), type=RankState)
    tensors = {name: torch.empty(place.shape, dtype=getattr(torch, place.dtype))
               for name, place in stored.tensors.items()}
    if tensors:
        with _alone():
            load(tensors, storage_reader=TensorReader(part, stored.tensors), no_dist=True)
    return warmup.rebuild(stored.state, tensors, device)


def _part(folder: Path, samples: int) -> Path:
    return folder / f"{_PART}-{samples}"


def _read(path: Path) -> bytes:
    _refuse_pipes(path)
    return path.read_bytes()


def _sha256(path: Path) -> str:
    _refuse_pipes(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_pipes(path: Path) -> None:
    """Reading a pipe or a device might never end."""
    if path.exists():
        require_regular_file(path, "move it away")


def _settle(folder: Path) -> None:
    """Has a rename within a folder reach the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Silences the warning that a rank which saves for itself gets from torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
