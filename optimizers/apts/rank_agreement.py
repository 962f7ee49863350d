"""The one collective of the family: an all-reduce that knows when there is nobody to talk to.

One rank's share of the samples, what may go wrong with it, and how all ranks agree on it.

No scalar is added to the messages of an outer iteration: what is out of the ordinary travels as
a NaN in the place of the loss, and only then do the ranks exchange more. A loss that is not
finite by itself travels as +∞, so that the two are told apart.

How the ranks of a round weigh what they send, and agree on what may go wrong.

Nothing is added to a round's message: what is out of the ordinary travels as a NaN in its first
element, and only then do the ranks exchange more. ``Shard`` does the same for the paper's variant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:

    from bench_apts.optimizers.apts.flat_problem import FlatBuffers, FlatProblem

class RankGroup:
    """The ranks that work together, with exact counts of what they exchange.

    Args:
        group: A process group; None for the default one, or for a single process where
            torch.distributed is not initialised.

    Attributes:
        size: Number of ranks N.
        rank: This process's number among them.
        floats: Floats all-reduced so far.
        calls: All-reduces so far.

    Raises:
        ValueError: This process does not belong to the group.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        together = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if together else 1
        self.rank = dist.get_rank(group) if together else 0
        self.floats = self.calls = 0
        if self.rank < 0:
            raise ValueError("this process does not belong to the process group")

    def sum(self, message: torch.Tensor) -> None:
        """Sums ``message`` over the ranks in place; with one rank nothing is sent."""
        if self.size == 1:
            return
        dist.all_reduce(message, group=self._group)
        self.floats += message.numel()
        self.calls += 1

    def mean(self, message: torch.Tensor) -> None:
        """Averages ``message`` over the ranks in place."""
        if self.size > 1:
            self.sum(message)
            message.div_(self.size)


class RankError(RuntimeError):
    """Raised by all ranks alike where the closure failed on some of them.

    The message names the ranks; on those the original exception is the cause.
    """


class LossShard:
    """Evaluates this rank's mean loss, and weighs it by its number of samples.

    The loss of all ranks is Σ cᵢ Lᵢ / Σ cᵢ with cᵢ the number of losses that rank i's closure
    returned (1 for a scalar). The ranks remember Σ cᵢ; a rank whose cᵢ is not the one it told
    last sends a NaN, and then all exchange their counts in one small all-reduce.

    Attributes:
        count: cᵢ of the latest pass.
        settled: Whether the ranks have found that all know Σ cᵢ; at first they hardly do.
    """

    def __init__(self, problem: FlatProblem, ranks: RankGroup) -> None:
        self._problem, self._ranks = problem, ranks
        self.count, self.settled = 1, ranks.size == 1
        self._told, self._total = 1, float(ranks.size)
        self._failure: Exception | None = None

    @property
    def _weight(self) -> float:
        """cᵢN / Σ cᵢ: exactly 1 where all shards are equal."""
        return self.count * self._ranks.size / self._total

    def begin(self) -> None:
        """Forgets the failure of the step before."""
        self._failure = None

    def evaluate(self, backward: bool, first: bool = False) -> torch.Tensor:
        """Returns this rank's mean loss, a scalar, and leaves its gradient in the buffer.

        An empty shard has the loss 0 and no gradient. After an exception (with more than one
        rank) loss and gradient are NaN and the closure is not called again.

        Args:
            backward: Whether the gradient is wanted.
            first: Whether the number of samples may be another than before.
        """
        flat = self._problem.flat
        try:
            if self._failure is None:
                losses = self._problem.evaluate(backward)
                count = losses.numel() if losses.dim() else 1
                if not first and count != self.count:
                    raise ValueError(f"the closure returned {count} losses after {self.count} "
                                     "within one step")
                self.count = count
                if count:
                    loss = losses.mean()
                    infinite = torch.full_like(loss, torch.inf)
                    return torch.where(loss.isfinite(), loss, infinite)
        except Exception as error:
            if self._ranks.size == 1:
                raise
            self._failure = error
        nothing = torch.nan if self.failed else 0.0
        if backward:
            flat.message.fill_(nothing)  # NaN, lest a solver learns from it
        return flat.values.new_full((), nothing)

    @property
    def failed(self) -> bool:
        """Whether the closure failed on this rank within the step."""
        return self._failure is not None

    def mean(self, message: torch.Tensor, place: int, first: bool = False) -> None:
        """Averages this rank's means over all samples of all ranks, in place.

        Args:
            message: What is averaged: gradient, loss, statistics.
            place: Where in it the loss stands.
            first: Whether a changed number of samples has yet to be told.
        """
        if self._ranks.size == 1:
            return
        if not self.count:
            message.zero_()
        elif self._weight != 1:
            message.mul_(self._weight)
        if self.failed or (first and self.count != self._told):
            message[place] = torch.nan
        self._ranks.mean(message)

    def agree(self, unsound: bool) -> None:
        """Finds out together why the mean loss or gradient is not finite.

        Where it returns, the numbers of samples were others than told, which all know now.

        Args:
            unsound: Whether this rank's own loss or gradient is not finite.

        Raises:
            RankError: The closure failed somewhere.
            FloatingPointError: A loss or a gradient is not finite somewhere.
            ValueError: No rank has a sample.
        """
        size = self._ranks.size
        sound = self._failure is None and not unsound
        told = torch.zeros(1 + 2 * size, dtype=torch.float64)
        told[0] = self.count * sound
        me = self._ranks.rank
        told[1 + me], told[1 + size + me] = float(self._failure is not None), float(unsound)
        told = told.to(self._problem.flat.values.device)
        self._ranks.sum(told)
        total, *flags = told.tolist()
        raise_on_all_ranks(flags[:size], self._failure)
        if any(flags[size:]):
            raise FloatingPointError("the loss at the current iterate or its gradient is not "
                                     f"finite on {_named(flags[size:])}")
        if not total:
            raise ValueError("no rank has a sample")
        self._told, self._total = self.count, total

    def inquire(self) -> None:
        """Finds out together whose closure failed within the step, and raises ``RankError``."""
        told = torch.zeros(self._ranks.size, dtype=torch.float32)
        told[self._ranks.rank] = float(self._failure is not None)
        told = told.to(self._problem.flat.values.device)
        self._ranks.sum(told)
        raise_on_all_ranks(told.tolist(), self._failure)

    def state_dict(self) -> dict[str, Any]:
        """Returns what was told last, so that a resumed run rounds alike."""
        return {"told": self._told, "total": self._total, "settled": self.settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self._told, self._total = state["told"], state["total"]
        self.settled = state["settled"]


def raise_on_all_ranks(failed: list[float], own: Exception | None) -> None:
    """Raises the same ``RankError`` on all ranks, if the closure failed on any.

    Args:
        failed: For each rank, whether it failed there.
        own: The exception of this rank.
    """
    if any(failed):
        raise RankError(f"the closure failed on {_named(failed)}") from own


def _named(flags: list[float]) -> str:
    """Returns "rank 2" or "ranks 0, 3"."""
    ranks = [str(rank) for rank, flag in enumerate(flags) if flag]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}"


class RoundAgreement:
    """Averages a round's message over the samples of all ranks.

    The mean is Σ cᵢ dᵢ / Σ cᵢ with cᵢ rank i's samples per local step of the round. The ranks
    remember Σ cᵢ; one whose cᵢ is not the one it told last, or whose closure failed, marks its
    message, and then all exchange counts, failures and the element that the mark took the place
    of, in one small all-reduce. Before the first round they do so without a mark. What the ranks
    remember is not part of the state: it saves that exchange and changes no result.

    Args:
        flat: Holds the message.
        ranks: Those who agree.
    """

    def __init__(self, flat: FlatBuffers, ranks: RankGroup) -> None:
        self._flat, self._ranks = flat, ranks
        self._told = self._total = self._rate = 0.0
        self._samples = 0
        self._failure: Exception | None = None

    @property
    def rate(self) -> float:
        """Samples per local step and rank, on average: the same on all ranks; 0 if unknown."""
        return self._rate

    @property
    def together(self) -> bool:
        """Whether there is more than one rank."""
        return self._ranks.size > 1

    @property
    def failed(self) -> bool:
        """Whether the closure failed on this rank in this round."""
        return self._failure is not None

    def begin(self) -> None:
        """Begins a round."""
        self._samples = 0
        self._failure = None

    def count(self, samples: int) -> None:
        """Counts the samples of a local step."""
        self._samples += samples

    def fail(self, error: Exception) -> None:
        """Keeps an exception of the closure for the end of the round; alone, raises it."""
        if self._ranks.size == 1:
            raise error
        self._failure = error

    def mean(self, steps: int, sums: torch.Tensor | None) -> list[float]:
        """Averages gradient buffer and statistics over the ranks; see the class.

        Args:
            steps: H of the round that ends.
            sums: This rank's sums of a test, which travel along; None without a test.

        Returns:
            The sums over all ranks; empty without a test.

        Raises:
            RankError: The closure failed on some rank; raised on all.
            ValueError: No rank has a sample; raised on all.
        """
        flat, ranks = self._flat, self._ranks
        count = self._samples / steps
        if ranks.size == 1:
            self._know(count, count)
            return [] if sums is None else sums.tolist()
        if not self._total:
            self._exchange(count, 0.0)
        message = flat.gradient if sums is None else flat.with_scalars
        if flat.averages:
            flat.pack_buffers()
            message = flat.message
        weight = count * ranks.size / self._total
        if not count:  # no samples, no say, not even a NaN
            message.zero_()
        elif weight != 1:
            message.mul_(weight)
        if sums is not None:
            flat.scalars.copy_(sums)
        first = flat.message[0].clone()
        if self.failed or count != self._told:
            flat.message[0] = math.nan
        ranks.mean(message)
        marked, *told = (
            flat.message[:1] if sums is None else torch.cat([flat.message[:1], flat.scalars])
        ).tolist()  # the one time that the host waits for the device
        if math.isnan(marked):
            before = self._total
            flat.message[0] = self._exchange(count, first.item())
            if before != self._total:
                message.mul_(before / self._total)
        self._rate = self._total / ranks.size  # as after an exchange, whether there was one or not
        flat.unpack_buffers()
        return [ranks.size * number for number in told]

    def _exchange(self, count: float, element: float) -> float:
        """Tells all ranks this one's count and failure; returns the mean of ``element``."""
        ranks = self._ranks
        told = torch.zeros(2 + ranks.size, dtype=torch.float64)
        told[0], told[1], told[2 + ranks.rank] = count, element, self.failed
        told = told.to(self._flat.values.device)
        ranks.sum(told)
        total, element, *failed = told.tolist()
        raise_on_all_ranks(failed, self._failure)
        self._know(count, total)
        return element / ranks.size

    def _know(self, count: float, total: float) -> None:
        if not total:
            raise ValueError("no rank has a sample")
        self._told, self._total = count, total
        self._rate = total / self._ranks.size

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides the future, on this rank; of a failure only its words."""
        failure = self._failure and f"{type(self._failure).__name__}: {self._failure}"
        return {"rate": self._rate, "samples": self._samples, "failure": failure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._rate = state["rate"]
        self._samples = state["samples"]
        self._failure = RuntimeError(state["failure"]) if state["failure"] else None
