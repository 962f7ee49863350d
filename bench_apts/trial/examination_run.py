"""An optimizer's examination inside one rank: short trainings of small networks, and what is seen.

Nothing is judged here: each rank writes down what it saw, and the command compares.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from bench_apts.core import observations
from bench_apts.core.errors import ContractError
from bench_apts.core.job import RankJob
from bench_apts.core.observations import PassCounts, RankLog, SeenTraining, StepCounts
from bench_apts.meters.audit import Audit, complaints
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CommMeter
from bench_apts.plugins import registry, replicas
from bench_apts.plugins.optimizer_contract import Batch, World
from bench_apts.plugins.randomness import StepSeeds
from bench_apts.trial import examined_problems, process_state, trained_model, warmup
from bench_apts.trial.examined_problems import SAMPLES, Perceptron, TiedConvolution
from bench_apts.trial.loader import Order
from bench_apts.trial.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.observations import Stage
    from bench_apts.core.records import Status
    from bench_apts.plugins.optimizer_contract import StepReport

STEPS, ROUNDS = 30, 2
"""Steps that a training's samples are enough for, and how often ranks agree in it at least."""

MOST_STEPS = 240
"""Steps that this may take at most."""

_WARMUP, _EVERY, _SAVED_AFTER = 3, 10, 8
"""Undone steps, steps between evaluations, and steps before a checkpoint."""


def main(payload: bytes) -> Status:
    """Examine in this rank of a process group that the launcher describes in ``os.environ``.

    Args:
        payload: A ``RankJob`` as JSON; its ``events`` names the files of the ranks' logs.

    Returns:
        How a trial ends that misses its target, which is all that the launcher asks.
    """
    meter = CommMeter()
    meter.install()
    job = msgspec.json.decode(payload, type=RankJob)
    dist.init_process_group("gloo")
    try:
        Examination(job, meter).run()
    finally:
        dist.destroy_process_group()
    return "miss"


class Examination:
    """All trainings of one rank, one after another in one process group."""

    def __init__(self, job: RankJob, meter: CommMeter) -> None:
        trial = job.trial
        self.world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"),
                           trial.batch_size, STEPS * trial.batch_size)
        self.trial, self.meter, self.clock = trial, meter, Clock()
        self.audit = Audit(meter)
        self.log = RankLog()
        self._file = observations.log_file(Path(job.events), self.world.rank)
        self.process = process_state.ProcessState()
        self.backend = registry.optimizer(trial.optimizer_reference).backend
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
        if self.world.size > 1:
            self._train("unequal")
        self._train("convolution", seed=1, warm=True)
        self._compare_generators()
        self._finish()
        self.log.stage = "end"

    def _set_budget(self) -> None:
        """Make the samples enough for a step's passes, which nobody has declared, as a few show.

        A training ends where they are used up, as a trial does: schedules end there too.
        """
        training = ExaminedTraining(self, SeenTraining("start"), 0)
        most = max(training.rehearse())
        samples = STEPS * max(self.world.batch_size, most)
        self.world = dataclasses.replace(self.world, budget_samples=samples)

    def _finish(self) -> None:
        gc.collect()
        self.log.left = self.process.left_running()
        self.audit.bill("eval")
        audited, self.log.bytes_complaints, self.log.channel_complaints = complaints(
            self.audit, self.meter, self.world)
        self.log.unaudited = audited.skipped

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
        training = ExaminedTraining(self, self.log.trainings[-1], seed)
        saved = None
        if warm:
            self.meter.phase = "warmup"
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

    def build(self, seen: SeenTraining, network: torch.nn.Module, seed: int) -> Any:
        """Have the backend build a stepper, in generators of a known state."""
        process_state.seed_generators(seed)
        self.meter.phase, self.log.building = "setup", True
        observations.write_log(self._file, self.log)
        last = self.world.rank == self.world.size - 1
        loss = cross_entropy if last or seen.stage != "unequal" else _fourfold
        stepper = self.backend.build(network, loss, self.trial.hyperparameters, self.world)
        self.log.building = False
        self._generators[seen.stage] = process_state.generator_states()
        self.audit.bill("setup")
        return stepper


class ExaminedTraining:
    """A training under examination, as far as it has come.

    Args:
        examination: What it is a part of.
        seen: Where is written what is seen.
        seed: Of the initial weights.

    Attributes:
        taken: Steps so far.
        agreed: Whether the ranks held one model after the last one.
    """

    def __init__(self, examination: Examination, seen: SeenTraining, seed: int) -> None:
        self._all, self._seen = examination, seen
        self.world, self._meter = examination.world, examination.meter
        torch.manual_seed(seed)
        kind = TiedConvolution if seen.stage == "convolution" else Perceptron
        self._network = kind()
        self._frozen = {name: p.detach().clone()
                        for name, p in examined_problems.frozen_parameters(self._network)}
        self._passes = trained_model.instrument(self._network, kind.forward)
        seen.parameters = sum(p.numel() for p in self._network.parameters() if p.requires_grad)
        stepper = examination.build(seen, self._network, seed)
        self._observer = Observer(stepper, self._network, self._passes, examination.clock,
                                  self._meter, examination.backend.moves_weights)
        self._inputs, self._targets = examined_problems.samples(0)
        self._own_targets = self._targets
        if seen.stage == "unequal" and self.world.rank == self.world.size - 1:
            self._own_targets = self._targets.roll(1)
        self._draws = StepSeeds(0, self.world.rank, self.world.device)
        self._batches = self._shares(0)
        self.taken, self.agreed = 0, True
        self._rounds = self._samples = self._evaluated_at = 0

    def _shares(self, seed: int) -> Iterator[Batch]:
        """Yield this rank's shares of minibatches."""
        sampling = self._all.backend.slicing(self._all.trial.hyperparameters) if not seed else None
        for chosen in Order(SAMPLES, seed).slices(
                self.world.batch_size, self.world.rank, self.world.size, sampling):
            yield Batch(self._inputs[chosen], self._own_targets[chosen])

    def rehearse(self) -> list[int]:
        """Take a few steps and return the samples of each, of all ranks."""
        observer = self._observer
        return [self._total(observer.reports.checked(
            observer.stepper.step(batch), len(batch.targets)))
            for batch in itertools.islice(self._batches, _WARMUP)]

    def _total(self, report: StepReport) -> int:
        total = report.total_samples
        return report.samples * self.world.size if total is None else total

    def warm_up(self) -> None:
        """Take a few steps and undo them, as before every trial."""
        batches = list(itertools.islice(self._shares(0), _WARMUP))
        warmup.prove_undone(self._observer.stepper, self._network, batches, self.world,
                            self._observer.reports)

    def resume(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint, after steps in another direction as in a new process."""
        for batch in itertools.islice(self._shares(1), _WARMUP):
            self._observer.stepper.step(batch)
        state = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self._observer.stepper.load_state_dict(state["stepper"])
        warmup.set_random_states(self.world.device, state["random"])
        self.taken = self._seen.begun = state["taken"]
        self._rounds, self._samples = state["rounds"], state["samples"]
        self._evaluated_at = state["evaluated_at"]
        self._batches = itertools.islice(self._batches, self.taken, None)

    def save(self) -> bytes | None:
        """Return a checkpoint; None where none can be written."""
        state = {"stepper": self._observer.stepper.state_dict(),
                 "random": warmup.random_states(self.world.device),
                 "taken": self.taken, "rounds": self._rounds, "samples": self._samples,
                 "evaluated_at": self._evaluated_at}
        self._all.audit.bill("checkpoint")
        written = io.BytesIO()
        try:
            torch.save(warmup.plain_state(state), written)
        except warmup.UnsupportedState as error:
            self._seen.unsaved = str(error)
            return None
        return written.getvalue()

    def begin(self) -> None:
        """Begin to count, and evaluate the untrained network."""
        self._observer.begin()
        self._all.audit.bill("checkpoint")
        if self.taken:
            self._train_on()
        else:
            self.evaluate()

    @property
    def done(self) -> bool:
        """Whether the training is over."""
        return (self._samples >= self.world.budget_samples and self.agreed
                and self._rounds >= ROUNDS)

    @property
    def due(self) -> bool:
        """Whether an evaluation is due."""
        return self.agreed and (self.done or self.taken >= self._evaluated_at + _EVERY)

    def step(self, clear: bool) -> None:
        """Take a step.

        Raises:
            ContractError: Its report is wrong, or ranks never agree.
        """
        if self.taken == MOST_STEPS:
            raise ContractError(f"{self._rounds} of {MOST_STEPS} steps reported agreed=True: too "
                                "few could be evaluated; have ranks agree more often by default")
        batch = next(self._batches)
        self._draws.begin(self.taken)
        if clear:
            for parameter in self._network.parameters():
                parameter.grad = None
        measured = self._seen.stage == "warmed"
        before = self._sent() if measured else {}
        report = self._observer.step(batch)
        if measured:
            self._seen.sent.append({name: sent - before.get(name, 0)
                                    for name, sent in self._sent().items()
                                    if sent != before.get(name, 0)})
        seen = self._seen
        self.taken, self.agreed = self.taken + 1, report.agreed
        self._rounds += report.agreed
        self._samples += self._total(report)
        seen.losses.append(float(report.loss))
        seen.steps.append(StepCounts(report.samples, report.forwards, report.backwards,
                                     report.total_samples, report.agreed))
        seen.weights.append(replicas.fingerprint(
            replicas.replicated(self._network.parameters())))
        _add(seen.reported, report.samples, report.forwards, report.backwards)

    def _sent(self) -> dict[str, float]:
        return {name: traffic.ideal_bytes
                for name, traffic in self._meter.snapshot().get("train", {}).items()}

    def evaluate(self) -> None:
        """Evaluate as a trial does: first the stepper provides a model, then it is passed."""
        self._observer.pause()
        self._all.audit.bill("train" if self.taken > self._seen.begun else "setup")
        self._all.clock.switch("eval")
        self._meter.phase = "validate"
        self._draws.begin(f"evaluation model {self.taken}")
        module, made = self._observer.evaluation_model(self._shares(2), SAMPLES)
        _add(self._seen.reported, made.samples, made.forwards, made.backwards)
        self._seen.evaluated.append(replicas.model_fingerprints(module))
        self._draws.begin("evaluation")
        module.eval()
        with self._observer.validating(module), torch.no_grad():
            self._seen.values.append(float(cross_entropy(module(self._inputs), self._targets)))
        module.train()
        self._evaluated_at = self.taken
        self._all.audit.bill("eval")
        self._train_on()

    def _train_on(self) -> None:
        self._all.clock.switch("train")
        self._meter.phase = "train"

    def close(self) -> None:
        """Write down what is known only at the end."""
        seen, passes = self._seen, self._passes
        seen.counted = PassCounts(
            self._observer.counted_samples, passes.forwards, passes.backwards)
        for name, p in examined_problems.frozen_parameters(self._network):
            whole = replicas.replicated([p])  # of a sharded one no part can be compared
            if not all(torch.equal(each.detach(), self._frozen[name]) for each in whole):
                seen.moved.append(name)
        network: Any = self._network
        seen.untied = (isinstance(network, TiedConvolution)
                       and network.first.weight is not network.second.weight)


def _fourfold(
    output: torch.Tensor, target: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    return 4 * cross_entropy(output, target, reduction=reduction)


def _add(counts: PassCounts, samples: int, forwards: int, backwards: int) -> None:
    counts.samples += samples
    counts.forwards += forwards
    counts.backwards += backwards
