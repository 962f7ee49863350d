"""One trial inside one rank: build, warm up, train, evaluate, decide to stop, write events."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.distributed as dist

from bench_apts.core import environment, job, store
from bench_apts.core.job import RankJob
from bench_apts.core.records import Counted, End, Eval, Event, Start, Status
from bench_apts.meters import audit, flops, memory_use
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CommMeter
from bench_apts.plugins import registry
from bench_apts.plugins.optimizer_contract import StepReport, World
from bench_apts.plugins.randomness import StepSeeds
from bench_apts.suites import data as datasets
from bench_apts.suites.generated import derived
from bench_apts.suites.suite_problem import SuiteProblem
from bench_apts.tasks import loss_module as tasks
from bench_apts.tasks.named_tasks import Classification
from bench_apts.trial import pruning, trained_model, warmup
from bench_apts.trial.checkpoints import Checkpoints
from bench_apts.trial.contract_checks import require_true
from bench_apts.trial.evaluation import StepTotals, end_status, evaluate, mean_loss
from bench_apts.trial.loader import Order
from bench_apts.trial.observer import Observer
from bench_apts.trial.stopping import GracefulStop
from bench_apts.trial.trained_model import TrialNetwork
from bench_apts.trial.trial_data import TrialSplits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.plugins.optimizer_contract import Batch, Sampling

WARMUP_STEPS = 3
"""DDP rebuilds its buckets in its second step; ZeRO-3 checks its trace for three."""

_SPARE = 100
"""Minibatches that a stepper may draw before an evaluation; an epoch where that is more."""


_COUNTERS = ("step", "samples", "forwards", "backwards", "peak", "tensors")
"""Attributes of a run that a checkpoint keeps as they are."""


def main(payload: bytes) -> str:
    """Runs a trial in this rank of a process group that the launcher describes in ``os.environ``.

    Args:
        payload: A ``Job`` as JSON.

    Returns:
        The trial's status.
    """
    clock = Clock()
    meter = CommMeter()
    meter.install()
    job = msgspec.json.decode(payload, type=RankJob)
    cuda = job.trial.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        run = TrialRun(job, clock, meter, device)
        if job.stop is None:
            return run.execute()
        shared = dist.distributed_c10d._get_default_store()
        with GracefulStop(Path(job.stop), run.world.rank, run.world.size, shared) as stop:
            return run.execute(stop)
    finally:
        dist.destroy_process_group()


class TrialRun:
    """The course of one trial on this rank."""

    def __init__(self, job: RankJob, clock: Clock, meter: CommMeter, device: torch.device) -> None:
        self.trial, self.clock, self.meter = job.trial, clock, meter
        self.audit = audit.Audit(meter)
        self.events = Path(job.events)
        clock.synchronize = self._synchronize
        trial, suite = job.trial, job.trial.suite
        self.world = World(dist.get_rank(), dist.get_world_size(), device, trial.batch_size,
                           suite.budget.samples, suite.precision, suite.micro_batch or 0)
        self.dataset = datasets.load(Path(job.data))
        self.memory_format: torch.memory_format = getattr(torch, suite.memory_format)
        problem = SuiteProblem(suite, job.folder)
        self.task = problem.task
        self.splits = TrialSplits(
            problem, self.dataset, trial.seeds.data, device, self.memory_format, job.workers
        )
        self.train, self.validation = self.splits.train, self.splits.validation
        partition = suite.data.partition
        self.owners = (torch.from_numpy(derived.owners(
            self.train.targets.cpu().numpy(), self.world.size, partition.concentration))
            if partition else None)
        self.order = Order(len(self.train), trial.seeds.data, self.owners)
        plugin = registry.optimizer(trial.plugin if trial.plugin.endswith(".py")
                                    else trial.optimizer)
        sample = self.train.take(torch.zeros(flops.SAMPLES, dtype=torch.int64, device=device))
        self.network = TrialNetwork(problem, self.dataset, sample, trial, device)
        self.model, passes = self.network.model, self.network.passes
        self.chance = (self.task.chance(self.validation.targets)
                       if isinstance(self.task, Classification) and not self.dataset.stream
                       else None)
        sampling = plugin.backend.sampling
        self.sampling = sampling(trial.hyperparameters) if sampling else None
        began = time.perf_counter()
        stepper = plugin.backend.build(
            self.model, self.network.loss, trial.hyperparameters, self.world)
        self.build_s, self.build_backwards = time.perf_counter() - began, passes.backwards
        self.observer = Observer(
            stepper, self.model, passes, clock, meter, plugin.backend.moves_weights)
        self.draws = StepSeeds(trial.seeds.init, self.world.rank, device)
        self.watch = (pruning.TrialPruner(job.pruning)
                      if job.pruning and self.world.rank == 0 else None)
        self.evals: list[Eval] = []
        self.step = self.samples = self.forwards = self.backwards = self.peak = 0
        self.tensors = 0
        self.pending = StepTotals()
        self.checkpoints = Checkpoints(self, job.saving)

    def _synchronize(self) -> None:
        """Waits for all ranks, then for the device; billed to the phase that ends."""
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        if self.world.size > 1:
            dist.barrier()

    def _batches(self) -> Iterator[Batch]:
        """Yields this rank's share of each minibatch from the present step on."""
        return self._drawn(self.order, self.sampling, self.step)

    def _spare(self) -> Iterator[Batch]:
        """Yields shares of minibatches in an order that belongs to the present step."""
        trial = self.trial
        seed = job.derive_seed(trial.seeds.data, "evaluation", trial.suite.name, self.step)
        return self._drawn(Order(len(self.train), seed, self.owners), None, 0)

    def _drawn(self, order: Order, sampling: Sampling | None, start: int) -> Iterator[Batch]:
        """Yield this rank's share of each minibatch of an order from a step on."""
        world, streams = self.world, self.dataset.stream is not None
        slices = itertools.islice(order.slices(
            world.batch_size, world.rank, world.size, sampling,
            "cpu" if streams else world.device, self.train.numbered), start, None)
        return map(self._handed, self.train.draw(slices, lambda: self.clock.aside("data")))

    def _handed(self, batch: Batch) -> Batch:
        return tasks.model_inputs(self.task, batch)

    def execute(self, stop: GracefulStop | None = None) -> Status:
        """Runs to the end, or until ``stop`` asks for a checkpoint; rank 0 writes every event."""
        forward, backward = self.network.flops or (None, None)
        self._write(Start(
            self.network.parameters, self.network.initial, self.order.sha256(), len(self.train),
            len(self.validation), self.meter.name, str(dist.get_backend()), forward, backward,
            environment.torch_numeric_settings(), self.build_s, self.build_backwards, self.chance))
        self._warm_up()
        memory_use.reset_peak(self.world.device.type)
        status = self._train(stop)
        if status == "interrupted":
            return status
        test = self._test() if self.trial.stage == "report" else None
        self.clock.switch("log")
        self.audit.bill("eval")
        traffic, calls = self.meter.snapshot(), self.meter.calls()
        audited, doubts = audit.verdict(self.audit, self.meter, self.world)
        if doubts:
            status = "error"
        final = self.evals[-1]
        wall_s, ledger = self.clock.closed()
        self._write(End(
            status, store.now(), wall_s, ledger, final.cpu_s,
            final.peak_memory_bytes, final.samples, traffic, test,
            trained_model.weights_sha256(self.evaluated), doubts, audit=audited, calls=calls))
        return status

    def _warm_up(self) -> None:
        """Keeps one-off costs out of training: compiling first, if asked for, then the rest."""
        self.meter.phase = "warmup"
        stepper, reports = self.observer.stepper, self.observer.reports
        batches = list(itertools.islice(self._batches(), WARMUP_STEPS))
        if self.trial.suite.compile:
            with self.clock.during("compile"):
                state, *_ = warmup.rehearse(stepper, batches, self.world, reports)
                if callable(prepare := getattr(stepper, "prepare_for_eval", None)):
                    prepare(itertools.islice(self._spare(), _SPARE))
                    stepper.load_state_dict(state)
                # Passes for evaluation are compiled apart, and once more for restored weights.
                evaluate(self.model, self.validation, self.task, self.world)
        with self.clock.during("warmup"):
            warmup.prove_undone(stepper, self.model, batches, self.world, reports)
        self.observer.begin()

    def _train(self, stop: GracefulStop | None) -> Status:
        budget, every = self.trial.suite.budget, self.trial.suite.evaluation.every_samples
        status: Status | None = None
        if not self.checkpoints.resume():
            status = self._evaluate()
        due = min((self.samples // every + 1) * every, budget.samples)
        batches, agreed = self._batches(), True
        while status is None:
            if stop and not stop.go_on(agreed):
                self.observer.pause()
                self.checkpoints.write()
                return "interrupted"
            batch = next(batches)
            self.draws.begin(self.step)
            report = self.observer.step(batch)
            agreed = report.agreed
            self._count(report)
            self.observer.check_agreement(self.samples, agreed, self.trial.suite)
            if self.samples >= due and agreed:
                status = self._evaluate()
                due = min((self.samples // every + 1) * every, budget.samples)
                if status is None:
                    self.checkpoints.write_if_due()
        return status

    def state(self) -> dict[str, Any]:
        """Return all that decides the further course and the record; all ranks together.

        The order of the data follows from the number of steps. What stepper and meters do for the
        state itself is in it.
        """
        self.peak = max(self.peak, memory_use.peak_bytes(self.world.device.type))
        stepper = self.observer.stepper.state_dict()
        self.audit.bill("checkpoint")
        return {
            "stepper": stepper,
            "random": warmup.random_states(self.world.device),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "observer": self.observer.state(),
            "pending": self.pending.state(),
            "evals": msgspec.to_builtins(self.evals),
            "clock": self.clock.state(),
            "traffic": self.meter.state(),
            "audit": self.audit.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Put a run that has warmed up where ``state`` was called; all ranks together."""
        self.observer.stepper.load_state_dict(state["stepper"])
        self.audit.bill("checkpoint")
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        self.observer.resume(state["observer"])
        self.pending.resume(state["pending"])
        self.evals = msgspec.convert(state["evals"], list[Eval])
        self.clock.resume(state["clock"])
        self.meter.resume(state["traffic"])
        self.audit.resume(state["audit"])
        warmup.set_random_states(self.world.device, state["random"])
        memory_use.reset_peak(self.world.device.type)

    def _count(self, report: StepReport) -> None:
        self.step += 1
        total = report.total_samples
        self.samples += report.samples * self.world.size if total is None else total
        self.forwards += report.forwards
        self.backwards += report.backwards
        self.pending.add(report)

    def _evaluate(self) -> Status | None:
        """Evaluates, writes the event and returns how the trial ends, or None to go on."""
        self.observer.pause()
        self.meter.phase = "validate"
        self.draws.begin(f"evaluation model {self.step}")
        self.evaluated, made = self.observer.evaluation_model(  # in the time of training
            self._spare(), max(_SPARE, len(self.train) // self.world.batch_size))
        self.forwards += made.forwards
        self.backwards += made.backwards
        self.meter.phase = "eval"
        self.clock.switch("eval")
        self.audit.bill("train" if self.step else "setup")
        counted = self.observer.passes
        sums = [float(self.pending.loss), float(self.pending.steps), float(made.samples),
                float(self.observer.counted_samples), self.clock.cpu_seconds("train")]
        self.peak = max(self.peak, memory_use.peak_bytes(self.world.device.type))
        past = len(self.evals)
        if past & (past - 1) == 0:  # a search through all objects is not for every evaluation
            self.tensors = max(self.tensors, memory_use.held_tensor_bytes(
                [self.model, self.observer.stepper], [self.dataset, self.train, self.validation]))
        peaks = [self.clock.cpu_seconds("train"), self.peak, self.forwards, self.backwards,
                 counted.forwards, counted.backwards, counted.forwards - self.forwards,
                 counted.backwards - self.backwards, self.tensors]
        self.draws.begin("evaluation")
        result = evaluate(self.evaluated, self.validation, self.task, self.world, sums,
                          [float(peak) for peak in peaks],
                          self.observer.validating(self.evaluated))
        loss_sum, loss_steps, made_samples, counted_samples, all_ranks_cpu_s = result.sums
        cpu, peak, forwards, backwards, seen_forwards, seen_backwards, *missing, held = (
            result.peaks)
        self.samples += int(made_samples)
        require_true(result.unequal, self.samples, counted_samples, *missing)
        self.evals.append(Eval(
            step=self.step,
            samples=self.samples,
            epoch=self.samples / len(self.train),
            train_s=self.clock.seconds("train"),
            wall_s=self.clock.wall,
            cpu_s=cpu,
            forwards=int(forwards),
            backwards=int(backwards),
            peak_memory_bytes=int(peak),
            train_loss=mean_loss(loss_sum, loss_steps),
            validation=result.metrics(),
            comm=self.meter.snapshot(),
            diagnostics=self.pending.diagnostics(),
            flops=self.network.flops and self.network.flops.total(
                self.samples, int(forwards), int(backwards)),
            counted=Counted(int(counted_samples), int(seen_forwards), int(seen_backwards),
                            self.observer.steps_s),
            all_ranks_cpu_s=all_ranks_cpu_s,
            tensor_bytes=int(held),
        ))
        self.pending = StepTotals()
        status = end_status(
            self.trial.suite, self.evals, result.loss, loss_sum, self.watch, self.world.size)
        self.clock.switch("log")
        self._write(self.evals[-1])
        if status is None:
            self.audit.bill("eval")
            self.clock.switch("train")
            self.meter.phase = "train"
        return status

    def _test(self) -> dict[str, float]:
        self.meter.phase = "eval"
        self.draws.begin("evaluation")
        with self.clock.during("eval"), self.observer.passes.paused():
            return evaluate(
                self.evaluated, self.splits.test(), self.task, self.world).metrics()

    def _write(self, event: Start | Eval | End) -> None:
        if self.world.rank == 0:
            msgspec.json.decode(msgspec.json.encode(event), type=Event)  # as readers will
            store.append(self.events, event)
