"""When a trial writes a checkpoint, what becomes of it, and how a trial goes on from one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from bench_apts.core import store
from bench_apts.core.errors import brief
from bench_apts.core.records import Checkpoint
from bench_apts.meters import audit, memory
from bench_apts.trial.checkpoints import checkpoint, resuming

if TYPE_CHECKING:
    from bench_apts.core.job import Saving
    from bench_apts.trial.run import Run


class Checkpoints:
    """Writes a run's checkpoints and reads the one that it goes on from.

    Time goes to the ledger's ``checkpoint``, bytes to the phase of that name. A checkpoint that
    fails does not end the trial; an event tells of it.

    Args:
        run: The trial in this rank.
        saving: Where and how often; None for never.
    """

    def __init__(self, run: Run, saving: Saving | None) -> None:
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
        resuming.give(run, checkpoint.read_rank(
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
            memory.reset_peak(run.world.device.type)
        run.audit.bill("checkpoint")
        run.meter.phase = "train"

    def _plan(self) -> None:
        if self._saving is not None and self._saving.every is not None:
            every = self._saving.every
            self._next = (self._run.samples // every + 1) * every

    def _write(self) -> None:
        run, digest, trouble = self._run, "", ""
        state = resuming.take(run)
        try:
            digest = checkpoint.write_rank(self._folder, run.samples, run.world.rank, state)
        except Exception as error:  # whatever it is, the trial can do without
            trouble = f"rank {run.world.rank}: {brief(error)}"
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
                event.sha256 = checkpoint.commit(self._folder, checkpoint.Manifest(
                    run.trial.run_id, run.step, run.samples, digests))
                event.folder = "/".join(
                    [checkpoint.FOLDER, run.trial.run_id, str(run.samples)])
            except OSError as error:
                event.skipped = brief(error)
        store.append(run.events, event)
        self._kept = run.samples if event.sha256 else self._kept
        checkpoint.sweep(self._folder, self._kept)
