"""APTS-S: stochastic local phases under a trust region that fresh minibatches judge."""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.judgement import SCALARS, Judgement, best_length

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.collective import Ranks
    from bench_apts.optimizers.apts.problem import Problem

_START = 1e-3
"""Where the search for the radius begins: from below, since a first step that is too long cannot
be told from a good one by a single noisy test (measured)."""

_SMALLEST, _LARGEST = 1e-7, 1.0
"""Bounds of the radius."""

_TEST_SAMPLES = 128
"""Fresh samples that make one test's worth of evidence: four ranks' minibatches of 32."""

_RAMP = 0.05
"""Share of the budget over which steps grow to the radius after start-up."""

_ADAPTED = 0.5
"""Share of the budget during which the radius still moves without a rejection."""

_STATE = ("anchor", "start", "anchor_buffers", "start_buffers", "sums", "round", "done",
          "since_test", "processed", "accepted", "adapted", "search_ended", "change", "slope",
          "testing", "searching")


@dataclass(frozen=True)
class StochasticSettings:
    """Settings of ``variant="stochastic"``; one default for every problem and every N.

    Attributes:
        samples: Budget: samples that this rank will process, every pass counted. The schedule
            runs over it.
        radius: A fixed radius, without search or adaptation; 0 lets the method find its own.
        judge: Whether steps are judged on fresh minibatches; False keeps every step.
        schedule: Whether steps shrink with half a cosine over the budget.
        longest_round: Upper bound on H, the local steps between two all-reduces; a power of 2.
        rounds_per_length: Rounds before H doubles.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
    """

    samples: int
    radius: float = 0.0
    judge: bool = True
    schedule: bool = True
    longest_round: int = 16
    rounds_per_length: int = 16
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be a positive number, not {self.samples}")
        if self.radius < 0:
            raise ValueError(f"radius must not be negative, but is {self.radius}")
        if self.longest_round < 1 or self.longest_round & (self.longest_round - 1):
            raise ValueError(f"longest_round must be a power of 2, not {self.longest_round}")
        if self.rounds_per_length < 1:
            raise ValueError("rounds_per_length must be at least 1")


class StochasticMethod:
    """One local step on a fresh minibatch per call of ``iterate``.

    A round is H local steps per rank in Adam's direction, the radius D being the length per
    coordinate, followed by one all-reduce of the mean displacement; H doubles from 1 to 16. With
    H = 1 the mean gradient is reduced and every rank takes the same step: data-parallel Adam.

    Every 8 local steps or more (4 during start-up) the first minibatch of a round judges the
    point w that the round starts from against the last accepted one w_r: losses of both, the
    slope along w − w_r, and their errors travel as six scalars with the round's own all-reduce.
    A rejection restores w_r bit for bit, throws the round away, halves D and clears the first
    moment. Start-up looks for D from below; afterwards, during the first half of the budget,
    α* (see ``best_length``) moves it by ever smaller factors.

    Memory beyond model and gradients: w_r, the round's start and Adam's two moments.
    """

    SLOTS = SCALARS

    def __init__(self, problem: Problem, ranks: Ranks, settings: StochasticSettings) -> None:
        self._problem, self._flat, self._ranks = problem, problem.flat, ranks
        self._settings = settings
        self.radius = settings.radius or _START
        self._searching = settings.radius == 0
        weights = torch.nn.Parameter(self._flat.values, requires_grad=True)
        self._weights = weights
        self._adam = torch.optim.Adam(
            [weights], lr=self.radius, betas=(settings.beta1, settings.beta2), fused=True)
        self._anchor, self._start = self._flat.values.clone(), self._flat.values.clone()
        self._anchor_buffers = self._start_buffers = self._flat.save_buffers()
        self._sums = torch.zeros(SCALARS, device=self._start.device, dtype=self._start.dtype)
        self._window: deque[float] = deque(maxlen=5)
        self._round = self._done = self._since_test = self._processed = 0
        self._accepted = 0
        self._adapted = self._search_ended = self._change = self._slope = 0.0
        self._testing = False

    @property
    def _length(self) -> int:
        """H of the present round."""
        doublings = self._round // self._settings.rounds_per_length
        return min(self._settings.longest_round, 1 << min(doublings, 30))

    @property
    def _spent(self) -> float:
        """Share of the budget that is used up."""
        return min(1.0, self._processed / self._settings.samples)

    def iterate(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Does one local step, and at the end of a round the all-reduce; see ``APTS.step``."""
        length, flat = self._length, self._flat
        if self._done == 0:
            self._begin()
        losses = self._problem.evaluate(backward=True).reshape(-1)
        self._processed += len(losses)
        if self._done == 0 and self._testing:
            self._sums = self._measure(losses)
        if length > 1:
            self._step()
        self._done += 1
        self._since_test += 1
        if self._done < length:
            return losses.mean(), {"radius": self.radius, "agreed": False}
        if length > 1:
            torch.sub(flat.values, self._start, out=flat.gradient)
        self._reduce()
        last: dict[str, Any] = {}
        if self._testing and not self._judge(last):
            self._return()
        elif length > 1:
            torch.add(self._start, flat.gradient, out=flat.values)
        else:
            self._step()
        self._round += 1
        self._done = 0
        return losses.mean(), last | {"radius": self.radius, "agreed": True}

    def _begin(self) -> None:
        """Begins a round and decides whether the point it starts from will be judged."""
        self._start.copy_(self._flat.values)
        self._start_buffers = self._flat.save_buffers()
        interval = 4 if self._searching else 8
        self._testing = self._settings.judge and self._since_test >= interval
        if self._testing:
            self._since_test = 0

    def _step(self) -> None:
        """One step in Adam's direction from the gradient in the buffer."""
        self._weights.grad = self._flat.gradient
        self._adam.param_groups[0]["lr"] = self.radius * self._factor()
        self._adam.step()

    def _factor(self) -> float:
        """Step length over radius: a ramp after start-up, and half a cosine over the budget."""
        if not self._settings.schedule:
            return 1.0
        found = not self._searching and not self._settings.radius
        ramp = min(1.0, (self._spent - self._search_ended) / _RAMP) if found else 1.0
        return ramp * 0.5 * (1 + math.cos(math.pi * self._spent))

    def _measure(self, after: torch.Tensor) -> torch.Tensor:
        """Returns the six sums of a test (see ``Judgement.from_sums``), on this rank's samples.

        Args:
            after: ``(b,)``, the fresh losses at the round's start, whose gradient lies in the
                buffer.
        """
        flat = self._flat
        slope = torch.dot(flat.gradient, flat.values - self._anchor)
        buffers = flat.save_buffers()
        flat.values.copy_(self._anchor)
        before = self._problem.evaluate(backward=False).reshape(-1)
        flat.values.copy_(self._start)
        flat.restore_buffers(buffers)
        self._processed += len(before)
        count = torch.full_like(slope, len(before))
        return torch.stack([before.sum(), after.sum(), slope * count, after.square().sum(),
                            (after - before).square().sum(), count])

    def _reduce(self) -> None:
        """Averages what lies in the gradient buffer, the sums of a test and the buffers."""
        flat = self._flat
        if self._testing:
            flat.scalars.copy_(self._sums)
        if self._start_buffers:
            flat.pack_buffers()
            self._ranks.mean(flat.message)
            flat.unpack_buffers()
        else:
            self._ranks.mean(flat.with_scalars if self._testing else flat.gradient)

    def _judge(self, last: dict[str, Any]) -> bool:
        """Accepts or rejects the round's start, and moves the radius.

        Returns:
            Whether it is accepted, the same on all ranks: they judge the same sums.
        """
        verdict = Judgement.from_sums((self._flat.scalars * self._ranks.size).tolist())
        change = verdict.after - verdict.before
        length = best_length(change, verdict.slope)
        accepted = verdict.acceptable(self._window, descending=self._searching)
        last |= {"accepted": accepted, "actual_reduction": -change, "best_length": length}
        if accepted:
            self._anchor.copy_(self._start)
            self._anchor_buffers = self._start_buffers
            self._window.append(verdict.after)
            self._accepted += 1
        if not self._settings.radius:
            if self._searching:
                self._search(accepted, length)
            elif not accepted:
                self._resize(0.5)
            elif self._spent < _ADAPTED:
                self._adapt(change, verdict.slope, verdict.samples)
        return accepted

    def _search(self, accepted: bool, length: float) -> None:
        """Start-up: brackets the radius from below."""
        if accepted and length > 1:
            self._resize(4.0 if length >= 4 else 2.0)
            return
        if not accepted and not self._accepted:
            self._resize(1 / 64)
            return
        if not accepted or length < 0.4:
            self._resize(0.5)
        self._searching = False
        self._search_ended = self._spent

    def _adapt(self, change: float, slope: float, samples: float) -> None:
        """After start-up: small moves that get smaller, from smoothed tests.

        A test counts by its samples, so that few ranks, whose tests are small and many, move the
        radius by the same evidence as many ranks.
        """
        weight = samples / _TEST_SAMPLES
        memory = 0.7**weight
        self._change = memory * self._change + weight * change
        self._slope = memory * self._slope + weight * slope
        length = best_length(self._change, self._slope)
        move = (1 + 0.25 / (1 + self._adapted / 8)) ** weight
        self._adapted += weight
        if length > 0.75:
            self._resize(move)
        elif length < 0.4:
            self._resize(1 / move)

    def _resize(self, factor: float) -> None:
        self.radius = min(_LARGEST, max(_SMALLEST, self.radius * factor))

    def _return(self) -> None:
        """Goes back to the last accepted point, bit for bit, and forgets the momentum."""
        self._flat.values.copy_(self._anchor)
        self._flat.restore_buffers(self._anchor_buffers)
        for state in self._adam.state.values():
            state["exp_avg"].zero_()
            # A moment that is no longer finite would poison every step to come.
            state["exp_avg_sq"].nan_to_num_(0.0, 0.0, 0.0)
        self._since_test = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of all that decides the future, on this rank."""
        return copy.deepcopy({name: getattr(self, f"_{name}") for name in _STATE} | {
            "radius": self.radius, "window": list(self._window),
            "adam": self._adam.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned on this rank."""
        state = copy.deepcopy(state)
        for name in _STATE:
            setattr(self, f"_{name}", state[name])
        self.radius = state["radius"]
        self._window = deque(state["window"], maxlen=5)
        self._adam.load_state_dict(state["adam"])
