"""An optimizer's examination inside one rank: short trainings of small networks, and what is seen.

Nothing is judged here: each rank writes down what it saw, and the command compares.
"""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from bench_apts.core import observations
from bench_apts.core.job import RankJob
from bench_apts.core.observations import RankLog, SeenTraining
from bench_apts.meters.audit import Audit, complaints
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.plugins import registry
from bench_apts.plugins.optimizer_contract import World
from bench_apts.trial import process_state
from bench_apts.trial.examined_training import ExaminedPlace, ExaminedTraining

if TYPE_CHECKING:
    from bench_apts.core.observations import Stage
    from bench_apts.core.records import Status
    from bench_apts.plugins.optimizer_contract import Stepper

STEPS = 30
"""Steps that the samples of a training are enough for."""

_SAVED_AFTER = 8
"""Steps before a checkpoint."""


def main(payload: bytes) -> Status:
    """Examine in this rank of a process group that the launcher describes in ``os.environ``.

    Args:
        payload: A ``RankJob`` as JSON; its ``events`` names the files of the ranks' logs.

    Returns:
        How a trial ends that misses its target, which is all that the launcher asks.
    """
    meter = CollectiveCounter()
    meter.install()
    job = msgspec.json.decode(payload, type=RankJob)
    dist.init_process_group("gloo")
    Examination(job, meter).run()
    dist.destroy_process_group()
    return "miss"


class Examination:
    """All trainings of one rank, one after another in one process group."""

    def __init__(self, job: RankJob, meter: CollectiveCounter) -> None:
        trial, audit = job.trial, Audit(meter)
        world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"),
                      trial.batch_size, STEPS * trial.batch_size)
        self.log = RankLog()
        self._file = observations.log_file(Path(job.events), world.rank)
        self.process = process_state.ProcessState()
        self._place = ExaminedPlace(
            world, registry.optimizer(trial.optimizer_reference).backend, trial.hyperparameters,
            meter, Clock(), audit)
        self._generators: dict[Stage, dict[str, Any]] = {}

    def run(self) -> None:
        """Run all trainings, and look at what they leave."""
        try:
            self._run()
        finally:
            self._note_changes()
            observations.write_log(self._file, self.log)

    def _run(self) -> None:
        self._set_budget()
        self._train("plain")
        saved = self._train("repeated", save=True)
        self._train("cleared", clear=True)
        if saved is not None:
            self._train("resumed", seed=1, resume=saved)
        self._train("warmed", warm=True)
        if self._place.world.size > 1:
            self._train("unequal")
        self._close_audit()  # not every plug-in survives what comes next
        self._train("convolution", seed=1, warm=True)
        self._compare_generators()
        gc.collect()
        self.log.left = self.process.left_running()
        self.log.stage = "end"

    def _set_budget(self) -> None:
        """Make the samples enough for a step's undeclared passes, as a few steps show.

        A training ends where they are used up, as a trial does: schedules end there too.
        """
        world = self._place.world
        most = max(self._training(SeenTraining("start"), 0).rehearse())
        self._place.world = dataclasses.replace(
            world, budget_samples=STEPS * max(world.batch_size, most))

    def _close_audit(self) -> None:
        self._place.audit.bill("eval")
        audited, self.log.bytes_complaints, self.log.channel_complaints = complaints(
            self._place.audit, self._place.meter, self._place.world)
        self.log.unaudited, self.log.audited = audited.skipped, True

    def _note_changes(self) -> None:
        self.log.changed = list(dict.fromkeys([*self.log.changed, *self.process.changes()]))
        self.process.restore_settings()

    def _compare_generators(self) -> None:
        """Find generators that were in one state after two builds that began in different ones."""
        one, other = self._generators["plain"], self._generators["convolution"]
        self.log.reseeded = [name for name in one if one[name] == other[name]]

    def _train(
        self, stage: Stage, seed: int = 0, save: bool = False, warm: bool = False,
        clear: bool = False, resume: bytes | None = None,
    ) -> bytes | None:
        """Train once.

        Args:
            stage: What this training is for.
            seed: Of weights and of generators at the beginning; the data are always the same.
            save: Whether to make a checkpoint on the way.
            warm: Whether a warm-up comes first, which is undone.
            clear: Whether gradients are taken away before each step.
            resume: A checkpoint to go on from.

        Returns:
            The checkpoint.
        """
        self.log.stage = stage
        self.log.trainings.append(SeenTraining(stage))
        observations.write_log(self._file, self.log)
        training = self._training(self.log.trainings[-1], seed)
        saved = None
        if warm:
            self._place.meter.phase = "warmup"
            training.warm_up()
        if resume:
            training.resume(resume)
        training.begin()
        self._note_changes()
        while not training.done:
            training.step(clear)
            if training.taken == 1:
                self._note_changes()
            if save and saved is None and training.agreed and training.taken >= _SAVED_AFTER:
                saved = training.save()
            if training.due:
                training.evaluate()
        training.close()
        return saved

    def _training(self, seen: SeenTraining, seed: int) -> ExaminedTraining:
        return ExaminedTraining(
            self._place, seen, seed, lambda network: self._build(seen, network, seed))

    def _build(self, seen: SeenTraining, network: torch.nn.Module, seed: int) -> Stepper:
        """Have the backend build a stepper, in generators of a known state."""
        place = self._place
        process_state.seed_generators(seed)
        place.meter.phase, self.log.building = "setup", True
        observations.write_log(self._file, self.log)
        last = place.world.rank == place.world.size - 1
        loss = cross_entropy if last or seen.stage != "unequal" else _fourfold
        stepper = place.backend.build(network, loss, place.values, place.world)
        self.log.building = False
        self._generators[seen.stage] = process_state.generator_states()
        place.audit.bill("setup")
        return stepper


def _fourfold(
    output: torch.Tensor, target: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    return 4 * cross_entropy(output, target, reduction=reduction)
