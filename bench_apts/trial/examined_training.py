"""One training under examination in one rank: its steps, evaluations and checkpoint."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from bench_apts.core.errors import ContractError
from bench_apts.core.observations import PassCounts, StepCounts
from bench_apts.plugins import replicas
from bench_apts.plugins.optimizer_contract import Batch
from bench_apts.plugins.randomness import StepSeeds
from bench_apts.trial import examined_problems, trained_model, warmup
from bench_apts.trial.examined_problems import SAMPLES, Perceptron, TiedConvolution
from bench_apts.trial.loader import Order
from bench_apts.trial.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench_apts.core.observations import SeenTraining
    from bench_apts.meters.audit import Audit
    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.plugins.backend import Backend
    from bench_apts.plugins.optimizer_contract import Stepper, StepReport, World

_ROUNDS, _MOST_STEPS = 2, 240
"""How often ranks agree in a training at least, and the steps that this may take at most."""

_WARMUP, _EVERY = 3, 10
"""Undone steps, and steps between evaluations."""


@dataclass
class ExaminedPlace:
    """What all trainings of one rank share."""

    world: World
    backend: Backend
    values: Mapping[str, Any]
    meter: CollectiveCounter
    clock: Clock
    audit: Audit


class ExaminedTraining:
    """A training under examination, as far as it has come.

    Args:
        place: What all trainings of this rank share.
        seen: Where is written what is seen.
        seed: Of the initial weights.
        build: Makes the stepper of a network.

    Attributes:
        taken: Steps so far.
        agreed: Whether the ranks held one model after the last one.
    """

    def __init__(
        self, place: ExaminedPlace, seen: SeenTraining, seed: int,
        build: Callable[[torch.nn.Module], Stepper],
    ) -> None:
        self._place, self._seen = place, seen
        self.world, self._meter = place.world, place.meter
        torch.manual_seed(seed)
        kind = TiedConvolution if seen.stage == "convolution" else Perceptron
        self._network = kind()
        self._frozen = {name: p.detach().clone()
                        for name, p in examined_problems.frozen_parameters(self._network)}
        self._passes = trained_model.instrument(self._network, kind.forward)
        seen.parameters = sum(p.numel() for p in self._network.parameters() if p.requires_grad)
        self._observer = Observer(
            build(self._network), self._network, self._passes, place.clock, place.meter,
            place.backend.moves_weights)
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
        sampling = None if seed else self._place.backend.slicing(self._place.values)
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
        self._place.audit.bill("checkpoint")
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
        self._place.audit.bill("checkpoint")
        if self.taken:
            self._train_on()
        else:
            self.evaluate()

    @property
    def done(self) -> bool:
        """Whether the training is over."""
        return (self._samples >= self.world.budget_samples and self.agreed
                and self._rounds >= _ROUNDS)

    @property
    def due(self) -> bool:
        """Whether an evaluation is due."""
        return self.agreed and (self.done or self.taken >= self._evaluated_at + _EVERY)

    def step(self, clear: bool) -> None:
        """Take a step.

        Raises:
            ContractError: Its report is wrong, or ranks never agree.
        """
        if self.taken == _MOST_STEPS:
            if self._rounds < _ROUNDS:
                raise ContractError(
                    f"{self._rounds} of {_MOST_STEPS} steps reported agreed=True: too few could "
                    "be evaluated; have ranks agree more often by default")
            raise ContractError(
                f"{_MOST_STEPS} steps reported {self._samples} samples of all ranks, and should "
                f"have used up {self.world.budget_samples}: a sample counts at each forward pass")
        batch = next(self._batches)
        self._draws.begin(self.taken)
        if clear:
            for parameter in self._network.parameters():
                parameter.grad = None
        measured = self._seen.stage == "warmed"
        before = self._sent() if measured else {}
        observer = self._observer
        handed = len(batch.targets)
        report = observer.reports.checked(observer.step(batch), handed)
        observer.handed += handed
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
        self._place.audit.bill("train" if self.taken > self._seen.begun else "setup")
        self._place.clock.switch("eval")
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
        self._place.audit.bill("eval")
        self._train_on()

    def _train_on(self) -> None:
        self._place.clock.switch("train")
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


def _add(counts: PassCounts, samples: int, forwards: int, backwards: int) -> None:
    counts.samples += samples
    counts.forwards += forwards
    counts.backwards += backwards
