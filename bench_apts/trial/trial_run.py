"""One trial inside one rank: build, warm up, train, evaluate, decide to stop, write events."""

from __future__ import annotations

import itertools
import math
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from msgspec import UNSET

from bench_apts.core import environment, store
from bench_apts.core.job import RankJob
from bench_apts.core.records import Counted, End, Eval, Start, Status
from bench_apts.meters import flops, memory_use
from bench_apts.meters.audit import Audit, verdict
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.meters.gpu_sensors import GpuSensors
from bench_apts.plugins import registry
from bench_apts.plugins.optimizer_contract import World
from bench_apts.plugins.randomness import StepSeeds
from bench_apts.suites import data
from bench_apts.suites.suite_problem import SuiteProblem
from bench_apts.tasks.named_tasks import Classification
from bench_apts.trial import evaluation, numa_binding, pruning, trained_model, warmup
from bench_apts.trial.checkpoints import Checkpoints
from bench_apts.trial.contract_checks import require_agreement, require_true
from bench_apts.trial.evaluation import RankPeaks, RankSums, SplitResult, evaluate
from bench_apts.trial.event_writer import EventWriter
from bench_apts.trial.observer import Observer
from bench_apts.trial.step_totals import StepTotals
from bench_apts.trial.stopping import GracefulStop
from bench_apts.trial.trained_model import TrialNetwork
from bench_apts.trial.trial_data import TrialBatches, TrialSplits

WARMUP_STEPS = 3
"""DDP rebuilds its buckets in its second step; ZeRO-3 checks its trace for three."""

GPU_WARMUP_STEPS = 12
"""DDP times its first ten steps on GPUs, for which the host waits. CUDA loads a kernel when it is
first used, and APTS-S first judges a step in its fifth round."""

_MAX_OFFERED = 100
"""Minibatches that a stepper may draw before an evaluation; an epoch where that is more."""

_WATCHDOG_S = 60.0
"""Seconds beyond the trial's time limit after which NCCL may give up waiting for a collective."""

_PEAKS = ("peak", "tensors")
"""Attributes of a run that a checkpoint keeps as they are."""


def main(payload: bytes) -> str:
    """Run a trial in this rank of a process group that the launcher describes in ``os.environ``.

    Args:
        payload: A ``RankJob`` as JSON.

    Returns:
        The trial's status.
    """
    clock = Clock()
    meter = CollectiveCounter()
    meter.install()
    job = msgspec.json.decode(payload, type=RankJob)
    cuda, bound = job.trial.device == "cuda", ""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        bound = numa_binding.bind_near_gpu(device)
    # NCCL's watchdog must not end a rank before the launcher does, which says where each one was.
    patience = timedelta(seconds=job.limit_s + _WATCHDOG_S) if cuda and job.limit_s else None
    dist.init_process_group("nccl" if cuda else "gloo", timeout=patience,
                            device_id=device if cuda else None)
    # Only where nothing failed: on NCCL all ranks wait for each other to destroy a group, so that
    # the launcher would not learn of the failure before the time limit.
    run = TrialRun(job, clock, meter, device)
    run.bound_cores = bound
    status = _execute(run, job)
    dist.destroy_process_group()
    return status


def _execute(run: TrialRun, job: RankJob) -> Status:
    if job.stop is None:
        return run.execute()
    shared = dist.distributed_c10d._get_default_store()
    with GracefulStop(Path(job.stop), run.world.rank, run.world.size, shared) as stop:
        return run.execute(stop)


class TrialRun:
    """The course of one trial on this rank.

    Attributes:
        bound_cores: The cores that this rank was bound to; empty for no binding.
    """

    bound_cores = ""

    def __init__(self, job: RankJob, clock: Clock, meter: CollectiveCounter,
                 device: torch.device) -> None:
        self.trial, self.clock, self.meter = job.trial, clock, meter
        self.audit = Audit(meter)
        self.events = Path(job.events)
        self.writer = EventWriter(self.events)
        clock.synchronize = self._synchronize
        trial, suite = job.trial, job.trial.suite
        self.world = World(dist.get_rank(), dist.get_world_size(), device, trial.batch_size,
                           suite.budget.samples, suite.precision, suite.micro_batch or 0)

        self.dataset = data.load(Path(job.data))
        problem = SuiteProblem(suite, job.folder)
        self.task = problem.task
        self.splits = TrialSplits(
            problem, self.dataset, trial.seeds.data, device, job.workers)
        self.train, self.validation = self.splits.train, self.splits.validation
        sample = self.train.take(torch.zeros(flops.SAMPLES, dtype=torch.int64, device=device))
        self.network = TrialNetwork(problem, self.dataset, sample, trial, device)
        self.model, passes = self.network.model, self.network.passes

        self.sensors = GpuSensors(device)
        self.baseline = memory_use.baseline_bytes(device.type)
        backend = registry.optimizer(trial.optimizer_reference).backend
        sampling = backend.sampling(trial.hyperparameters) if backend.sampling else None
        self.batches = TrialBatches(self.splits, self.task, trial, self.world, sampling,
                                    lambda: self.observer.waiting())
        began = time.perf_counter()
        stepper = backend.build(self.model, self.network.loss, trial.hyperparameters, self.world)
        self.build_s, self.build_backwards = time.perf_counter() - began, passes.backwards
        self.observer = Observer(
            stepper, self.model, passes, clock, meter, backend.moves_weights)
        self.draws = StepSeeds(trial.seeds.init, self.world.rank, device)
        self.watch = (pruning.TrialPruner(job.pruning)
                      if job.pruning and self.world.rank == 0 else None)

        self.evals: list[Eval] = []
        self.peak = self.tensors = 0
        self.totals = StepTotals(self.world, self.observer.reports)
        self.checkpoints = Checkpoints(self, job.saving)

    def _synchronize(self) -> None:
        """Wait for all ranks, then for the device; billed to the phase that ends."""
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        if self.world.size > 1:
            dist.barrier()

    def execute(self, stop: GracefulStop | None = None) -> Status:
        """Run to the end, or until ``stop`` asks for a checkpoint; rank 0 writes every event."""
        forward, backward = self.network.flops or (None, None)
        chance = (self.task.chance(self.validation.targets)
                  if isinstance(self.task, Classification) and not self.dataset.stream else None)
        self._write(Start(
            self.network.parameters, self.network.initial, self.batches.order.sha256(),
            len(self.train), len(self.validation), self.meter.name, str(dist.get_backend()),
            forward, backward, environment.torch_numeric_settings(), self.build_s,
            self.build_backwards, chance, self.baseline, self.bound_cores or UNSET))
        self._warm_up()
        memory_use.reset_peak(self.world.device.type)
        status = self._train(stop)
        readings = self.sensors.close()
        if status == "interrupted":
            self.writer.settle()
            return status
        test = self._test() if self.trial.stage == "report" else None
        self.clock.switch("log")
        self.audit.bill("eval")
        traffic, calls = self.meter.snapshot(), self.meter.calls()
        audited, doubts = verdict(self.audit, self.meter, self.world)
        if doubts:
            status = "error"
        gpus = [readings] * self.world.size
        if self.world.device.type == "cuda" and self.world.size > 1:
            dist.all_gather_object(gpus, readings)
        final = self.evals[-1]
        wall_s, ledger = self.clock.closed()
        self._write(End(
            status, store.now(), wall_s, ledger, final.cpu_s, final.peak_memory_bytes,
            final.samples, traffic, test, trained_model.weights_sha256(self.evaluated), doubts,
            audit=audited, calls=calls, gpus=gpus if any(gpus) else UNSET))
        self.writer.settle()
        return status

    def _warm_up(self) -> None:
        """Keep one-off costs out of training: compiling first, if asked for, then the rest."""
        self.meter.phase = "warmup"
        stepper, reports = self.observer.stepper, self.observer.reports
        steps = GPU_WARMUP_STEPS if self.world.device.type == "cuda" else WARMUP_STEPS
        batches = list(itertools.islice(self.batches.training(self.totals.step), steps))
        if self.trial.suite.compile:
            with self.clock.during("compile"):
                state, *_ = warmup.rehearse(stepper, batches, self.world, reports)
                if callable(prepare := getattr(stepper, "prepare_for_eval", None)):
                    prepare(itertools.islice(self.batches.spare(self.totals.step), _MAX_OFFERED))
                    stepper.load_state_dict(state)
                # Passes for evaluation are compiled apart, and once more for restored weights.
                evaluate(self.model, self.validation, self.task, self.world)
        with self.clock.during("warmup"):
            warmup.prove_undone(stepper, self.model, batches, self.world, reports)
        self.observer.begin()

    def _train(self, stop: GracefulStop | None) -> Status:
        status = None if self.checkpoints.resume() else self._evaluate()
        due, agreed = self._next_evaluation(), True
        batches, share = self.batches.training(self.totals.step), self.batches.share
        while status is None:
            if stop and not stop.go_on(agreed):
                self._pause()
                self.checkpoints.write()
                return "interrupted"
            batch = next(batches)
            self.draws.begin(self.totals.step)
            agreed = self.totals.add(self.observer.step(batch))
            if share is None:
                self.observer.handed += len(batch.targets)
            if self.totals.samples < due:
                continue
            if not agreed:
                require_agreement(self.totals.samples, due, self.evals, self.trial.suite)
                continue
            status = self._evaluate()
            due = self._next_evaluation()
            if status is None:
                self.checkpoints.write_if_due()
        return status

    def _next_evaluation(self) -> int:
        """Return the samples after which the next evaluation is due."""
        suite = self.trial.suite
        every = suite.evaluation.every_samples
        return min((self.totals.samples // every + 1) * every, suite.budget.samples)

    def _pause(self) -> None:
        """Close the steps since the last pause, and check what their reports add up to."""
        if self.batches.share is not None:
            self.observer.handed = self.totals.step * self.batches.share
        self.observer.pause()
        self.totals.check()

    def _evaluate(self) -> Status | None:
        """Evaluate, write the event and return how the trial ends, or None to go on."""
        self._pause()
        # What the stepper does to provide the model is billed to training.
        self.meter.phase = "validate"
        self.draws.begin(f"evaluation model {self.totals.step}")
        self.evaluated, made = self.observer.evaluation_model(
            self.batches.spare(self.totals.step),
            max(_MAX_OFFERED, len(self.train) // self.world.batch_size))
        self.totals.forwards += made.forwards
        self.totals.backwards += made.backwards
        # The harness's own evaluation is not.
        self.meter.phase = "eval"
        self.clock.switch("eval")
        sums = self._own_sums(made.samples)
        self.audit.bill("train" if self.totals.step else "setup")
        self.draws.begin("evaluation")
        result = evaluate(self.evaluated, self.validation, self.task, self.world,
                          sums if self.world.device.type == "cuda" else sums[:-1],
                          self._own_peaks(),
                          self.observer.validating(self.evaluated))
        memory_use.reset_peak(self.world.device.type)  # evaluations have larger batches
        sums, peaks = RankSums(*result.sums), RankPeaks(*result.peaks)
        self.totals.samples += int(sums.made_samples)
        require_true(result.unequal, self.totals.samples, sums.counted_samples,
                     peaks.missing_forwards, peaks.missing_backwards)
        self.evals.append(self._record(result, sums, peaks))
        self.totals.begin()
        status = evaluation.end_status(
            self.trial.suite, self.evals, result.loss, sums.loss, self.watch)
        self.clock.switch("log", in_step=True)
        self._write(self.evals[-1])
        self.audit.bill("eval")
        status = evaluation.status_of_rank_0(status, self.world)
        if status is None:
            self.clock.switch("train", in_step=True)
            self.meter.phase = "train"
            self.sensors.begin()
        return status

    def _own_sums(self, made_samples: int) -> RankSums:
        return RankSums(float(self.totals.loss), self.totals.steps, made_samples,
                        self.observer.counted_samples, self.clock.cpu_seconds("train"),
                        self.sensors.pause())

    def _own_peaks(self) -> RankPeaks:
        self.peak = max(self.peak, memory_use.peak_bytes(self.world.device.type))
        past, counted = len(self.evals), self.observer.passes
        if past & (past - 1) == 0:  # a search through all objects is not for every evaluation
            self.tensors = max(self.tensors, memory_use.held_tensor_bytes(
                [self.model, self.observer.stepper], [self.dataset, self.train, self.validation]))
        return RankPeaks(
            self.clock.cpu_seconds("train"), self.peak, self.tensors, self.totals.forwards,
            self.totals.backwards, counted.forwards, counted.backwards,
            counted.forwards - self.totals.forwards, counted.backwards - self.totals.backwards)

    def _record(self, result: SplitResult, sums: RankSums, peaks: RankPeaks) -> Eval:
        forwards, backwards = int(peaks.forwards), int(peaks.backwards)
        operations, samples = self.network.flops, self.totals.samples
        return Eval(
            step=self.totals.step, samples=samples, epoch=samples / len(self.train),
            train_s=self.clock.seconds("train"), wall_s=self.clock.wall, cpu_s=peaks.cpu_s,
            all_ranks_cpu_s=sums.cpu_s, forwards=forwards, backwards=backwards,
            flops=operations and operations.total(samples, forwards, backwards),
            peak_memory_bytes=int(peaks.memory), tensor_bytes=int(peaks.tensors),
            train_loss=sums.mean_loss(), validation=result.metrics(),
            energy_j=sums.energy_j if math.isfinite(sums.energy_j) else None,
            comm=self.meter.snapshot(), diagnostics=self.totals.diagnostics(),
            counted=Counted(int(sums.counted_samples), int(peaks.counted_forwards),
                            int(peaks.counted_backwards), self.observer.steps_s))

    def _test(self) -> dict[str, float]:
        self.meter.phase = "eval"
        self.draws.begin("evaluation")
        with self.clock.during("eval"), self.observer.passes.paused():
            return evaluate(
                self.evaluated, self.splits.test(), self.task, self.world).metrics()

    def _write(self, event: Start | Eval | End) -> None:
        if self.world.rank == 0:
            self.writer.write(event)

    def state(self) -> dict[str, Any]:
        """Return all that decides the further course and the record; all ranks together.

        The order of the data follows from the number of steps. What stepper and meters do for the
        state itself is in it.
        """
        self.sensors.pause()
        self.peak = max(self.peak, memory_use.peak_bytes(self.world.device.type))
        stepper = self.observer.stepper.state_dict()
        self.audit.bill("checkpoint")
        return {
            "stepper": stepper,
            "random": warmup.random_states(self.world.device),
            "counters": self.totals.counts() | {name: getattr(self, name) for name in _PEAKS},
            "observer": self.observer.state(),
            "pending": self.totals.state(),
            "evals": msgspec.to_builtins(self.evals),
            "clock": self.clock.state(),
            "traffic": self.meter.state(),
            "audit": self.audit.state(),
            "energy": self.sensors.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Put a run that has warmed up where ``state`` was called; all ranks together."""
        self.observer.stepper.load_state_dict(state["stepper"])
        self.audit.bill("checkpoint")
        for name in _PEAKS:
            setattr(self, name, state["counters"][name])
        self.observer.resume(state["observer"])
        self.totals.resume(state["counters"], state["pending"])
        self.evals = msgspec.convert(state["evals"], list[Eval])
        self.clock.resume(state["clock"])
        self.meter.resume(state["traffic"])
        self.audit.resume(state["audit"])
        self.sensors.resume(state["energy"])
        self.sensors.begin()
        warmup.set_random_states(self.world.device, state["random"])
        memory_use.reset_peak(self.world.device.type)
