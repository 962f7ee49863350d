"""torch.distributed.checkpoint's files without its pickled metadata.

A trial's state in one rank: all that decides its further course and its record.

When a trial writes a checkpoint, what becomes of it, and how a trial goes on from one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from bench_apts.core import store
from bench_apts.core.errors import describe_error
from bench_apts.core.records import Checkpoint, Eval
from bench_apts.meters import audit, memory_use
from bench_apts.trial import checkpoint_files
from bench_apts.trial.checkpoint_files import TensorPlace
from bench_apts.trial.warmup import random_states, set_random_states

if TYPE_CHECKING:

    from torch.distributed.checkpoint.storage import WriteResult

    from bench_apts.core.job import CheckpointJob
    from bench_apts.trial.trial_run import TrialRun

class TensorWriter(FileSystemWriter):
    """Writes one rank's tensors, each by ``torch.save``, and keeps where they are.

    Attributes:
        places: By name, once the tensors are written: what torch would have pickled.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.places: dict[str, TensorPlace] = {}

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Collects the places."""
        for result in (result for each in results for result in each):
            told: Any = metadata.state_dict_metadata[result.index.fqn]
            stored = result.storage_data
            self.places[result.index.fqn] = TensorPlace(
                str(told.properties.dtype).removeprefix("torch."), list(told.size),
                stored.relative_path, stored.offset, stored.length)


class TensorReader(FileSystemReader):
    """Reads tensors with ``weights_only``, from the places that a ``Writer`` kept."""

    def __init__(self, folder: Path, places: dict[str, TensorPlace]) -> None:
        super().__init__(folder)
        self._places = places

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Makes the metadata from the places; reads no file."""
        described: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        stored = {}
        for name, place in self._places.items():
            shape = torch.Size(place.shape)
            first = torch.Size([0] * len(shape))
            described[name] = TensorStorageMetadata(
                TensorProperties(dtype=getattr(torch, place.dtype)), shape,
                [ChunkStorageMetadata(first, shape)])
            stored[MetadataIndex(name, first)] = _StorageInfo(
                place.file, place.offset, place.length)
        return Metadata(state_dict_metadata=described, storage_data=stored)


_COUNTERS = ("step", "samples", "forwards", "backwards", "peak", "tensors")


def capture_state(run: TrialRun) -> dict[str, Any]:
    """Returns the state between two steps; all ranks call it together.

    The order of the data follows from the number of steps. What stepper and meters do for the
    state itself is in it.
    """
    run.peak = max(run.peak, memory_use.peak_bytes(run.world.device.type))
    stepper = run.observer.stepper.state_dict()
    run.audit.bill("checkpoint")
    return {
        "stepper": stepper,
        "random": random_states(run.world.device),
        "counters": {name: getattr(run, name) for name in _COUNTERS},
        "observer": run.observer.state(),
        "pending": run.pending.state(),
        "evals": msgspec.to_builtins(run.evals),
        "clock": run.clock.state(),
        "traffic": run.meter.state(),
        "audit": run.audit.state(),
    }


def restore_state(run: TrialRun, state: dict[str, Any]) -> None:
    """Puts a run that has warmed up where ``take`` was called; all ranks call it together."""
    run.observer.stepper.load_state_dict(state["stepper"])
    run.audit.bill("checkpoint")
    for name in _COUNTERS:
        setattr(run, name, state["counters"].get(name, 0))  # of an earlier version: none
    run.observer.resume(state["observer"])
    run.pending.resume(state["pending"])
    run.evals = msgspec.convert(state["evals"], list[Eval])
    run.clock.resume(state["clock"])
    run.meter.resume(state["traffic"])
    run.audit.resume(state["audit"])
    set_random_states(run.world.device, state["random"])
    memory_use.reset_peak(run.world.device.type)


class Checkpoints:
    """Writes a run's checkpoints and reads the one that it goes on from.

    Time goes to the ledger's ``checkpoint``, bytes to the phase of that name. A checkpoint that
    fails does not end the trial; an event tells of it.

    Args:
        run: The trial in this rank.
        saving: Where and how often; None for never.
    """

    def __init__(self, run: TrialRun, saving: CheckpointJob | None) -> None:
        self._run, self._saving = run, saving
        self._folder = Path(saving.folder if saving else "")
        self._next = saving.every if saving else None
        self._tried = self._kept = saving.resume if saving else None

    @property
    def resumes(self) -> bool:
        """Whether the trial goes on from a checkpoint."""
        return self._saving is not None and self._saving.resume is not None

    def resume(self) -> None:
        """Puts the run where its checkpoint was written: about to train on."""
        assert self._saving is not None
        assert self._saving.resume is not None
        run = self._run
        run.meter.phase = "checkpoint"
        run.clock.switch("checkpoint")
        run.audit.bill("setup")
        restore_state(run, checkpoint_files.read_rank(
            self._folder, self._saving.resume, run.world.rank, run.world.device))
        self._plan()
        run.clock.switch("train")
        run.audit.bill("checkpoint")
        run.meter.phase = "train"

    def write_if_due(self) -> None:
        """Writes a checkpoint if a multiple of the cadence has been passed."""
        if self._next is not None and self._run.samples >= self._next:
            self.write()

    def write(self) -> None:
        """Writes a checkpoint, unless there is one of here; all ranks call it while training."""
        run = self._run
        if self._saving is None or run.samples in (0, self._tried):
            return
        self._tried = run.samples
        self._plan()
        run.meter.phase = "checkpoint"
        with run.clock.during("checkpoint"):
            run.audit.bill("train")
            self._write()
            memory_use.reset_peak(run.world.device.type)
        run.audit.bill("checkpoint")
        run.meter.phase = "train"

    def _plan(self) -> None:
        if self._saving is not None and self._saving.every is not None:
            every = self._saving.every
            self._next = (self._run.samples // every + 1) * every

    def _write(self) -> None:
        run, digest, trouble = self._run, "", ""
        state = capture_state(run)
        try:
            digest = checkpoint_files.write_rank(self._folder, run.samples, run.world.rank, state)
        except Exception as error:  # whatever it is, the trial can do without
            trouble = f"rank {run.world.rank}: {describe_error(error)}"
        told = [(digest, trouble)] * run.world.size
        if run.world.size > 1:
            dist.all_gather_object(told, told[0])
        # What was seen behind the meter's back must not be forgotten with this process.
        _, doubts = audit.verdict(run.audit, run.meter, run.world)
        if run.world.rank == 0:
            reason = "; ".join(filter(None, [*(text for _, text in told), doubts]))
            self._conclude([digest for digest, _ in told], reason)

    def _conclude(self, digests: list[str], reason: str) -> None:
        run = self._run
        event = Checkpoint(run.step, run.samples, skipped=reason)
        if not reason:
            try:
                event.sha256 = checkpoint_files.commit(self._folder, checkpoint_files.Manifest(
                    run.trial.run_id, run.step, run.samples, digests))
                event.folder = "/".join(
                    [checkpoint_files.FOLDER, run.trial.run_id, str(run.samples)])
            except OSError as error:
                event.skipped = describe_error(error)
        store.append(run.events, event)
        self._kept = run.samples if event.sha256 else self._kept
        checkpoint_files.sweep(self._folder, self._kept)
