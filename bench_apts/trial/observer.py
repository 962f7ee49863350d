"""A stepper as the harness runs it: its claims are compared with what was seen of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.core.errors import ContractError
from bench_apts.meters.clock import TOLERANCE, TOLERANCE_S
from bench_apts.plugins import replicas
from bench_apts.trial.contract_checks import ReportCheck

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.plugins.optimizer_contract import Batch, Stepper, StepReport
    from bench_apts.trial.trained_model import PassCounter


_now = time.perf_counter  # before a plug-in could replace it


class Observer:
    """Runs the stepper that a backend built with ``model``, and counts what it does on this rank.

    Args:
        stepper: The stepper.
        model: The model, whose passes ``passes`` counts.
        passes: The counter.
        clock: The trial's, like ``meter``.
        meter: The trial's.
        moves_weights: Whether ``evaluation_model`` may change the model's weights.

    Attributes:
        handed: Samples in the batches that the stepper was given; the caller counts them.
        steps_s: Seconds from the first step between two pauses to the second pause, without what
            was waited for data, by a clock of its own.
        reports: Checks what the stepper reports.

    Raises:
        ContractError: The stepper lacks a method.
    """

    def __init__(
        self, stepper: Stepper, model: torch.nn.Module, passes: PassCounter, clock: Clock,
        meter: CollectiveCounter, moves_weights: bool,
    ) -> None:
        missing = missing_methods(stepper)
        if missing:
            raise ContractError(f"build() returned a {type(stepper).__name__} without the "
                                f"method{'s' * (len(missing) > 1)} {', '.join(missing)}")
        self.stepper, self.passes = stepper, passes
        self._prepare = getattr(stepper, "prepare_for_eval", None)
        self._weights = replicas.Weights(model.parameters())
        self._clock, self._meter, self._moves_weights = clock, meter, moves_weights
        self.reports = ReportCheck()
        self._billing = BillingCheck(clock, meter)
        self._in_stretch = False
        self.handed = self._evaluated = 0
        self.steps_s = self._waited_s = 0.0

    def begin(self) -> None:
        """Forget the passes of set-up and warm-up: training begins."""
        self.passes.settle()
        self.passes.reset()

    def step(self, batch: Batch) -> StepReport:
        """Take a step and return its report, unchecked."""
        if not self._in_stretch:
            self.begin_steps()
        return self.stepper.step(batch)

    def begin_steps(self) -> None:
        """Begin a stretch of steps."""
        self._billing.begin(self._waited_s)
        self._in_stretch = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Bill a wait for data apart from training, by both clocks."""
        began = _now()
        with self._clock.aside("data"):
            yield
        self._waited_s += _now() - began

    def pause(self) -> None:
        """Close the stretch of steps since the last pause.

        Raises:
            ContractError: Something other than training was billed in it.
        """
        if self._in_stretch:
            self.steps_s += self._billing.close(self._waited_s)
            self._in_stretch = False

    def evaluation_model(
        self, batches: Iterator[Batch], most: int
    ) -> tuple[torch.nn.Module, PassCounter]:
        """Return the module to evaluate, and the passes that the stepper made to provide it.

        Args:
            batches: Training minibatches for ``prepare_for_eval``, where the stepper has it.
            most: How many of them it may draw.

        Raises:
            ContractError: It is not a module, the model's weights changed without the backend
                saying that they may, or too many minibatches were drawn.
        """
        before, since = self._weights.bits(), self.passes.state()
        offered = 0
        if self._prepare is not None:
            drawn = OfferedBatches(batches, most)
            self._prepare(drawn)
            drawn.close()
            offered = drawn.samples
        module = self.stepper.evaluation_model()
        if not isinstance(module, torch.nn.Module):
            raise ContractError(f"evaluation_model() returned a {type(module).__name__}; a "
                                "torch.nn.Module was expected")
        moved = self._weights.bits() != before
        if moved and not self._moves_weights:
            raise ContractError(
                "evaluation_model() or prepare_for_eval() changed the weights of the model: train "
                "in step(), or, for a method that is evaluated at other weights, set "
                "Backend.moves_weights; what it does there is billed to it")
        made = self.passes.since(since)
        made.samples = max(made.samples, offered)
        self._evaluated += made.samples
        return module, made

    @contextmanager
    def validating(self, module: torch.nn.Module) -> Iterator[None]:
        """Run the harness's forward passes in this block: they are not the stepper's."""
        phase, self._meter.phase = self._meter.phase, "validate"
        with self.passes.paused():
            yield
        # An FSDP2 module that stayed gathered would save the next step its first all-gather.
        for part in module.modules():
            if callable(reshard := getattr(part, "reshard", None)):
                reshard()
        self._meter.phase = phase

    @property
    def counted_samples(self) -> int:
        """Samples of this rank that its claims must not be below."""
        return max(self.handed + self._evaluated, self.passes.samples)

    def state(self) -> dict[str, Any]:
        """Return the counts so far as plain values."""
        return {"handed": self.handed, "evaluated": self._evaluated, "steps_s": self.steps_s,
                "passes": self.passes.state()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the counts that ``state`` returned."""
        self.handed, self._evaluated = state["handed"], state["evaluated"]
        self.steps_s = state["steps_s"]
        self.passes.resume(state["passes"])


class BillingCheck:
    """Compares the ledger and the meter with a second clock and with what they may change.

    A plug-in is not given clock and meter; one that looks for them in the interpreter could bill
    its steps to another part of the ledger, or its bytes to another phase. Between steps ranks may
    wait for data.

    Args:
        clock: The trial's clock.
        meter: The trial's meter.
    """

    def __init__(self, clock: Clock, meter: CollectiveCounter) -> None:
        self._clock, self._meter = clock, meter
        self._waited_s = 0.0

    def begin(self, waited_s: float) -> None:
        """Begin a stretch of steps; the clock's part and the meter's phase are ``train``.

        Args:
            waited_s: Seconds of waiting for data so far by the second clock.
        """
        self._waited_s = waited_s
        self._calls = self._meter.calls_outside("train")
        self._train_s, self._others_s = self._clock.training()
        self._began = _now()

    def close(self, waited_s: float) -> float:
        """Compare the clocks and what was counted; return the seconds by the second clock.

        Args:
            waited_s: Seconds of waiting for data by now.

        Raises:
            ContractError: Something other than training was billed, or less time than the steps
                took.
        """
        taken = _now() - self._began - (waited_s - self._waited_s)
        train_s, others_s = self._clock.training()
        billed = train_s - self._train_s
        if others_s != self._others_s or billed < taken * (1 - TOLERANCE) - TOLERANCE_S:
            raise ContractError(
                f"its steps took {taken:.3f} s by a second clock and {billed:.3f} s of "
                "training were billed: the trial's clock was changed from inside a step")
        if self._meter.calls_outside("train") != self._calls:
            raise ContractError("collectives of its steps were counted in another phase than "
                                "training: the trial's meter was changed from inside a step")
        return taken


class OfferedBatches:
    """An iterator that counts what is drawn, and ends with an error where it is too much.

    Args:
        batches: This rank's shares of minibatches, endless.
        most: How many may be drawn.

    Attributes:
        samples: Samples drawn so far.
    """

    def __init__(self, batches: Iterator[Batch], most: int) -> None:
        self._batches, self._most = batches, most
        self._drawn = self.samples = 0
        self._open = True

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next share.

        Raises:
            ContractError: All were drawn, or the evaluation has begun.
        """
        if not self._open:
            raise ContractError("prepare_for_eval() kept its batches and drew one after it had "
                                "returned; draw within it, what it does there is billed to it")
        if self._drawn == self._most:
            raise ContractError(
                f"prepare_for_eval() drew more than {self._most} minibatches for one evaluation; "
                "take as many as are needed, for instance by itertools.islice(batches, 50)")
        self._drawn += 1
        batch = next(self._batches)
        self.samples += len(batch.targets)
        return batch

    def close(self) -> None:
        """Offer nothing from now on."""
        self._open = False


def missing_methods(stepper: object) -> list[str]:
    """Return the names of the methods of ``Stepper`` that an object lacks, in their order."""
    return [name for name in ("step", "state_dict", "load_state_dict", "evaluation_model")
            if not callable(getattr(stepper, name, None))]
