"""All-reduces over the ranks, and how they agree in-band on sample counts and failures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.flat_problem import FlatBuffers
    from bench_apts.optimizers.quantized_mean import QuantizedMean


class RankGroup:
    """The ranks that work together, with exact counts of what they exchange.

    Args:
        group: A process group; None for the default one, or for a single process where
            torch.distributed is not initialised.

    Attributes:
        group: The process group.
        size: Number of ranks N.
        rank: This process's number among them.
        floats: Floats all-reduced so far.
        calls: Collectives so far.
        bytes: Payload of all of them so far.

    Raises:
        ValueError: This process does not belong to the group.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        together = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size(group) if together else 1
        self.rank = dist.get_rank(group) if together else 0
        self.floats = self.calls = self.bytes = 0
        if self.rank < 0:
            raise ValueError("this process does not belong to the process group")

    def sum(self, message: torch.Tensor) -> None:
        """Sum ``message`` over the ranks in place; with one rank nothing is sent."""
        if self.size == 1:
            return
        dist.all_reduce(message, group=self.group)
        self.floats += message.numel()
        self.bytes += message.nbytes
        self.calls += 1

    def mean(self, message: torch.Tensor) -> None:
        """Average ``message`` over the ranks in place."""
        if self.size > 1:
            self.sum(message)
            message.div_(self.size)


class RankError(RuntimeError):
    """Raised by all ranks alike where the closure failed on some of them.

    The message names the ranks; on those the original exception is the cause.
    """


class RankAgreement:
    """Weighs this rank's part of a mean over all samples, and agrees on what may go wrong.

    The mean is Σ cᵢ xᵢ / Σ cᵢ with cᵢ the samples of rank i. The ranks remember Σ cᵢ, so no count
    travels with a message. Only a rank whose cᵢ is not the one that it announced last, or whose
    closure failed, marks its message with a NaN; all ranks find it in the mean and then exchange
    counts and failures in one small all-reduce::

        rank 0   [ w₀x₀           ]                       [ c₀, 0 0 ]
                                   > mean: NaN, so all: <             > Σ cᵢ, or RankError
        rank 1   [ w₁x₁, mark NaN ]                       [ c₁, 0 1 ]

    Args:
        ranks: Those who agree.
        like: A tensor on the device of the messages.
        presumed: What every rank takes the counts of the others for at first; 0 if they are
            exchanged before the first mean.

    Attributes:
        count: cᵢ.
        announced: The cᵢ that the other ranks know.
        total: Σ cᵢ as announced.
    """

    def __init__(self, ranks: RankGroup, like: torch.Tensor, presumed: int) -> None:
        self.ranks, self._device = ranks, like.device
        self.count: float = presumed
        self.announced: float = presumed
        self.total = float(presumed * ranks.size)
        self._failure: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether the closure failed on this rank since ``begin``."""
        return self._failure is not None

    @property
    def failure(self) -> str:
        """What failed on this rank since ``begin``, in words; "" if nothing did."""
        return f"{type(self._failure).__name__}: {self._failure}" if self._failure else ""

    def begin(self, failure: str = "") -> None:
        """Forget the failure of the step or round before; or restore one by its words."""
        self._failure = RuntimeError(failure) if failure else None

    def fail(self, error: Exception) -> None:
        """Keep an exception of the closure for the next mean; raise it where there is one rank."""
        if self.ranks.size == 1:
            raise error
        self._failure = error

    def weigh(self, message: torch.Tensor) -> None:
        """Scale this rank's part of a mean in place, by exactly 1 where all counts are equal."""
        weight = self.count * self.ranks.size / self.total
        if not self.count:  # a rank without samples contributes nothing, not even a NaN
            message.zero_()
        elif weight != 1:
            message.mul_(weight)

    def mark(self, element: torch.Tensor, announce: bool = True) -> None:
        """Write NaN into one element if the ranks have to exchange failures, or other counts."""
        if self.failed or (announce and self.count != self.announced):
            element.fill_(math.nan)

    def exchange(self, *numbers: float) -> list[float]:
        """Exchange counts and failures; all ranks call it together.

        Args:
            numbers: Further numbers of this rank.

        Returns:
            Their sums over the ranks.

        Raises:
            RankError: The closure failed on some rank; raised on all.
            ValueError: No rank has a sample; raised on all.
        """
        flags = [float(self.failed and rank == self.ranks.rank) for rank in range(self.ranks.size)]
        message = torch.tensor([self.count, *numbers, *flags], dtype=torch.float64)
        if self.ranks.size > 1:
            message = message.to(self._device)
            self.ranks.sum(message)
        total, *sums = message.tolist()
        sums, flags = sums[:len(numbers)], sums[len(numbers):]
        if any(flags):
            raise RankError(f"the closure failed on {name_ranks(flags)}") from self._failure
        if not total:
            raise ValueError("no rank has a sample")
        self.announced, self.total = self.count, total
        return sums


def name_ranks(flags: list[float]) -> str:
    """Return "rank 2" or "ranks 0, 3": those whose flag is set."""
    ranks = [str(rank) for rank, flag in enumerate(flags) if flag]
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks)}"


def average_round(
    agreement: RankAgreement, flat: FlatBuffers, sums: torch.Tensor | None,
    quantized: QuantizedMean | None = None, number: int = 0,
) -> list[float]:
    """Average payload and statistics over the samples of all ranks.

    In one all-reduce, or the payload in fewer bits; the statistics then are an all-reduce of
    their own.

    Args:
        agreement: Knows this rank's count.
        flat: The buffers.
        sums: This rank's sums of a test, which travel along; None without a test.
        quantized: What averages the payload in fewer bits.
        number: Of the round, for its random numbers.

    Returns:
        The sums over all ranks; empty without a test.

    Raises:
        RankError: The closure failed on some rank; raised on all.
        ValueError: No rank has a sample; raised on all.
    """
    size = agreement.ranks.size
    if size == 1:
        agreement.exchange()
        return [] if sums is None else sums.tolist()
    if not agreement.total:
        agreement.exchange(0.0)
    if quantized is not None:
        return _average_in_bits(agreement, flat, sums, quantized, number)
    scalars = flat.scalars[: 0 if sums is None else len(sums)]
    message = flat.message[: flat.size + len(scalars)]
    if flat.averages:
        flat.pack_buffers()
        message = flat.message
    agreement.weigh(message)
    if sums is not None:  # sums have no weight
        scalars.copy_(sums)
    # The mark takes the place of the first element, which is sent again if there was one.
    first = flat.message[0].clone()
    agreement.mark(flat.message[:1])
    agreement.ranks.mean(message)
    mark, *totals = torch.cat([flat.message[:1], scalars]).tolist()  # the only wait
    if math.isnan(mark):
        before = agreement.total
        flat.message[0] = agreement.exchange(first.item())[0] / size
        if before != agreement.total:  # the weights were those of the counts before
            message.mul_(before / agreement.total)
    flat.unpack_buffers()
    return [size * number for number in totals]


def _average_in_bits(
    agreement: RankAgreement, flat: FlatBuffers, sums: torch.Tensor | None,
    quantized: QuantizedMean, number: int,
) -> list[float]:
    """Do what ``average_round`` does, the payload in fewer bits."""
    ranks = agreement.ranks
    # The mark and the sums, which the second message carries as they are.
    scalars = flat.payload.new_zeros(1 if sums is None else 1 + len(sums), dtype=torch.float32)
    if sums is not None:
        scalars[1:] = sums
    agreement.mark(scalars[:1])
    agreement.weigh(flat.payload)
    quantized.average(flat.payload, number, scalars)
    ranks.calls += 2
    ranks.bytes += sum(quantized.layout.payloads_with(len(scalars)).values())
    messages = [flat.payload]
    if flat.averages:
        flat.pack_buffers()
        messages.append(flat.message[len(flat.with_scalars) :])
        agreement.weigh(messages[1])
        ranks.mean(messages[1])
    mark, *totals = scalars.tolist()  # the only wait
    if math.isnan(mark):
        before = agreement.total
        agreement.exchange()
        if before != agreement.total:
            torch._foreach_mul_(messages, before / agreement.total)
    flat.unpack_buffers()
    return totals
