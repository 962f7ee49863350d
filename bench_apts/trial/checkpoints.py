"""When a trial writes a checkpoint, what becomes of it, and how a trial resumes from one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch.distributed as dist

from bench_apts.core import store
from bench_apts.core.errors import describe_error
from bench_apts.core.records import Checkpoint
from bench_apts.meters import memory_use
from bench_apts.meters.audit import Audit, verdict
from bench_apts.trial import checkpoint_files
from bench_apts.trial.warmup import plain_state

if TYPE_CHECKING:
    from bench_apts.core.job import CheckpointJob
    from bench_apts.core.spec import Trial
    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.meters.gpu_sensors import GpuSensors
    from bench_apts.plugins.optimizer_contract import World
    from bench_apts.trial.step_totals import StepTotals


class Resumable(Protocol):
    """What a checkpoint needs of a trial in this rank."""

    trial: Trial
    world: World
    clock: Clock
    meter: CollectiveCounter
    audit: Audit
    sensors: GpuSensors
    events: Path
    totals: StepTotals

    def state(self) -> dict[str, Any]:
        """Return all that decides the further course and the record; all ranks together."""

    def resume(self, state: dict[str, Any]) -> None:
        """Put a run that has warmed up where ``state`` was called; all ranks together."""


class Checkpoints:
    """Writes a run's checkpoints and reads the one that it resumes from.

    Time goes to the ledger's ``checkpoint``, bytes to the phase of that name. A checkpoint that
    fails does not end the trial; its event says why it was skipped.

    Args:
        run: The trial in this rank.
        saving: Where and how often; None for never.
    """

    def __init__(self, run: Resumable, saving: CheckpointJob | None) -> None:
        self._run, self._saving = run, saving
        self._folder = Path(saving.folder if saving else "")
        self._next = saving.every if saving else None
        self._tried = self._kept = saving.resume if saving else None

    def resume(self) -> bool:
        """Put the run where its checkpoint was written, about to train; False if it has none."""
        if self._saving is None or self._saving.resume is None:
            return False
        run = self._run
        run.meter.phase = "checkpoint"
        run.clock.switch("checkpoint")
        run.audit.bill("setup")
        run.resume(checkpoint_files.read_rank(
            self._folder, self._saving.resume, run.world.rank, run.world.device))
        self._plan()
        run.clock.switch("train")
        run.audit.bill("checkpoint")
        run.meter.phase = "train"
        return True

    def write_if_due(self) -> None:
        """Write a checkpoint if a multiple of the cadence has been passed."""
        if self._next is not None and self._run.totals.samples >= self._next:
            self.write()

    def write(self) -> None:
        """Write a checkpoint, unless this point has one; all ranks call it while training."""
        run = self._run
        if self._saving is None or run.totals.samples in (0, self._tried):
            return
        self._tried = run.totals.samples
        self._plan()
        run.meter.phase = "checkpoint"
        with run.clock.during("checkpoint"):
            run.audit.bill("train")
            self._write()
            memory_use.reset_peak(run.world.device.type)
        run.audit.bill("checkpoint")
        run.meter.phase = "train"
        run.sensors.begin()

    def _plan(self) -> None:
        if self._saving is not None and self._saving.every is not None:
            every = self._saving.every
            self._next = (self._run.totals.samples // every + 1) * every

    def _write(self) -> None:
        run, digest, trouble = self._run, "", ""
        state = run.state()
        try:
            digest = checkpoint_files.write_rank(
                self._folder, run.totals.samples, run.world.rank, plain_state(state))
        except Exception as error:  # whatever it is, the trial can do without
            trouble = f"rank {run.world.rank}: {describe_error(error)}"
        written = [(digest, trouble)] * run.world.size
        if run.world.size > 1:
            dist.all_gather_object(written, written[0])
        # What was seen behind the meter's back must not be forgotten with this process.
        _, doubts = verdict(run.audit, run.meter, run.world)
        if run.world.rank == 0:
            reason = "; ".join(filter(None, [*(text for _, text in written), doubts]))
            self._conclude([digest for digest, _ in written], reason)

    def _conclude(self, digests: list[str], reason: str) -> None:
        """Commit on rank 0, or skip for a reason; remove what is no longer needed."""
        run = self._run
        event = Checkpoint(run.totals.step, run.totals.samples, skipped=reason)
        if not reason:
            try:
                event.sha256 = checkpoint_files.commit(self._folder, checkpoint_files.Manifest(
                    run.trial.run_id, run.totals.step, run.totals.samples, digests,
                    checkpoint_files.FORMAT))
                event.folder = "/".join(
                    [checkpoint_files.FOLDER, run.trial.run_id, str(run.totals.samples)])
            except OSError as error:
                event.skipped = describe_error(error)
        store.append(run.events, event)
        self._kept = run.totals.samples if event.sha256 else self._kept
        checkpoint_files.sweep(self._folder, self._kept)
