"""Rounds over the ranks: each takes steps alone, then their mean displacement moves all of them.

Each rank takes H inner steps; then the mean displacement s of the ranks moves the outer weights w,
from which all go on (Reddi et al., arXiv 2003.00295)::

    b ← μ b + s,   w ← w + η (s + μ b)

With η = 1 and μ = 0 this is plain averaging (Stich, Local SGD, arXiv 1805.09767); with Nesterov's
momentum μ it is DiLoCo (Douillard et al., arXiv 2311.08105). Float buffers such as BatchNorm
statistics are averaged along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.contract import Batch, Loss, StepReport, World
from bench_apts.core.errors import UserError
from bench_apts.optimizers import schedule
from bench_apts.optimizers.apts.flat_problem import FlatBuffers
from bench_apts.optimizers.apts.rank_agreement import RankGroup
from bench_apts.optimizers.quantized_mean import QuantizedMean
from bench_apts.plugins import micro_batches
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Inner = Callable[[torch.nn.Module, torch.nn.Parameter, Mapping[str, Any]],
                     list[torch.optim.Optimizer]]
    """Makes the inner optimizers, given the model, its parameters as one vector, and the
    hyperparameters."""


@dataclass(frozen=True)
class Rounds:
    """When ranks meet and what they do then; the fields are hyperparameters of the backends.

    Attributes:
        period: H, inner steps in a round.
        outer_lr: η.
        outer_momentum: μ.
        switch: Share of the budget before which all ranks step along their mean gradient.
        fragments: Parts of the weights that meet in turn, each once in H steps.
        first_moment: Rounds after which Adam's first moments are averaged; 0 for never.
        second_moment: Likewise of the second moments.
        synchronous: Whether ranks step along their mean gradient always, so that outer steps
            need no message.
        slow: Whether the outer weights are evaluated instead of those that are trained.
        bits: Of a number in a displacement's message (``quantized_mean``); 32 for an all-reduce.
        block: Numbers that share a step there.
        feedback: Whether what a message loses is added to the next one.
    """

    period: int = 1
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    switch: float = 0.0
    fragments: int = 1
    first_moment: int = 0
    second_moment: int = 0
    synchronous: bool = False
    slow: bool = False
    bits: int = 32
    block: int = 256
    feedback: bool = True

    def __post_init__(self) -> None:
        if self.fragments > self.period:
            raise UserError(f"fragments={self.fragments} is more than period={self.period}: only "
                            "one fragment meets in a step; lower fragments or raise period")


class LocalRoundsStepper:
    """Inner optimizers on this rank's share of each minibatch, and rounds over the ranks.

    The last step of the budget ends a round, so that what it has reached is evaluated. Parameters
    are views of one flat vector. Besides the inner optimizers' state it holds the outer weights
    and, where μ > 0, their momentum, each of n floats; with fewer bits and feedback, n + n/N more.
    Autograd's gradients take n floats until they are copied to the flat one.

    Args:
        model: On the device, the same weights on every rank.
        loss: The suite's loss.
        values: Hyperparameters, those of ``Rounds`` and of ``inner``.
        world: This rank's place; its budget is the schedule's horizon.
        inner: Makes the inner optimizers at their peak learning rates.

    Raises:
        UserError: There are more fragments than steps in a round, or ``bits`` or ``block`` cannot
            be used.
    """

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World,
        inner: Inner,
    ) -> None:
        self.model, self.loss, self.world = model, loss, world
        self._rounds = Rounds(**{
            field.name: values[field.name] for field in fields(Rounds) if field.name in values})
        self._steps = math.ceil(world.budget_samples / world.batch_size)
        self._switch = round(self._rounds.switch * self._steps)
        self._schedule = schedule.find(values)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._flat = FlatBuffers(list(trained.values()), model.buffers, 0, list(trained))
        self._ranks = RankGroup(None)
        vector = torch.nn.Parameter(self._flat.values)
        vector.grad = self._flat.payload
        self._optimizers = inner(model, vector, values)
        self._peaks = [group["lr"] for group in self._groups()]
        self._outer = self._flat.values.clone()
        self._momentum = (self._outer.new_zeros(self._outer.shape)
                          if self._rounds.outer_momentum else None)
        ends = [part * self._flat.size // self._rounds.fragments
                for part in range(self._rounds.fragments + 1)]
        self._fragments = [slice(*pair) for pair in pairwise(ends)]
        self._means = [QuantizedMean(
            self._outer[where], self._rounds.bits, self._rounds.block,
            feedback=self._rounds.feedback) for where in self._fragments]
        self._trained: torch.Tensor | None = None
        self._taken = 0

    def _groups(self) -> list[dict[str, Any]]:
        return [group for each in self._optimizers for group in each.param_groups]

    def step(self, batch: Batch) -> StepReport:
        """Take an inner step, and end a round where it is due."""
        flat, rounds, most = self._flat, self._rounds, self.world.micro_batch
        with torch.no_grad():
            self._resume()
            flat.attach()
            flat.clear()
        loss = micro_batches.backward(self.model, self.loss, batch, most)
        with torch.no_grad():
            flat.collect(backward=True)
            together = rounds.synchronous or self._taken < self._switch
            if together:
                self._average(slice(0, flat.size))
            factor = self._schedule(self._taken, self._steps)
            for group, peak in zip(self._groups(), self._peaks, strict=True):
                group["lr"] = peak * factor
            for each in self._optimizers:
                each.step()
            self._taken += 1
            agreed = self._end_round(together)
        passes = micro_batches.count(len(batch.targets), most)
        return StepReport(loss, len(batch.targets), passes, passes, agreed=together or agreed)

    def _average(self, where: slice, mean: QuantizedMean | None = None) -> None:
        """Average a part of the message over the ranks, and buffers along with the last part.

        Args:
            where: The part of the flat vector.
            mean: How, if in fewer bits; buffers then are an all-reduce of their own.
        """
        flat = self._flat
        message = flat.payload[where]
        if mean:
            mean.average(message, self._taken)
            message = message[:0]
        if flat.averages and where.stop == flat.size:
            flat.pack_buffers()
            message = flat.message[where.stop - len(message):]
        if len(message):
            self._ranks.mean(message)
        if where.stop == flat.size:
            flat.unpack_buffers()

    def _end_round(self, together: bool) -> bool:
        """Have those fragments of the weights meet whose turn it is.

        Args:
            together: Whether all ranks hold the same weights anyway.

        Returns:
            Whether a round has ended.
        """
        flat, rounds = self._flat, self._rounds
        if self._taken <= self._switch:
            self._outer.copy_(flat.values)
            return True
        number, place = divmod(self._taken - self._switch - 1, rounds.period)
        ended = place == rounds.period - 1 or self._taken >= self._steps
        for part, where in enumerate(self._fragments):
            # Fragment k of K is due after (k + 1) H / K steps of a round.
            if self._taken < self._steps and (
                    (part + 1) * rounds.period // rounds.fragments != place + 1):
                continue
            moved = flat.payload[where]
            torch.sub(flat.values[where], self._outer[where], out=moved)
            if not together:
                self._average(where, self._means[part] if rounds.bits < 32 else None)
            if self._momentum is not None:
                momentum = self._momentum[where]
                momentum.mul_(rounds.outer_momentum).add_(moved)
                moved.add_(momentum, alpha=rounds.outer_momentum)
            self._outer[where].add_(moved, alpha=rounds.outer_lr)
            flat.values[where].copy_(self._outer[where])
        if ended:
            self._average_moments(number + 1)
        return ended

    def _average_moments(self, number: int) -> None:
        """Average Adam's moments over the ranks where it is their turn after so many rounds."""
        for name, period in (("exp_avg", self._rounds.first_moment),
                             ("exp_avg_sq", self._rounds.second_moment)):
            if period and number % period == 0:
                for each in self._optimizers:
                    for state in each.state.values():
                        self._ranks.mean(state[name])

    def _resume(self) -> None:
        """Put the trained weights back in the place of the outer ones that were evaluated."""
        if self._trained is not None:
            self._flat.values.copy_(self._trained)
            self._trained = None

    def evaluation_model(self) -> torch.nn.Module:
        """Return the model, at the outer weights where they are what is evaluated."""
        if self._rounds.slow and self._trained is None:
            self._trained = self._flat.values.clone()
            self._flat.values.copy_(self._outer)
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, buffers and all that decides the future, on this rank."""
        return copied({
            "model": self.model.state_dict(), "outer": self._outer, "momentum": self._momentum,
            "trained": self._trained, "taken": self._taken,
            "means": [mean.state_dict() for mean in self._means],
            "optimizers": [each.state_dict() for each in self._optimizers]})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        self.model.load_state_dict(state["model"])
        self._outer.copy_(state["outer"])
        if self._momentum is not None:
            self._momentum.copy_(state["momentum"])
        self._trained = copied(state["trained"])
        self._taken = state["taken"]
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.load_state_dict(saved)
        # They take the tensors themselves.
        for each, saved in zip(self._optimizers, copied(state["optimizers"]), strict=True):
            each.load_state_dict(saved)
