"""How the ranks of a round weigh what they send, and agree on what may go wrong.

Nothing is added to a round's message: what is out of the ordinary travels as a NaN in its first
element, and only then do the ranks exchange more. ``Shard`` does the same for the paper's variant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.shard import complain

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.collective import Ranks
    from bench_apts.optimizers.apts.flat import Flat


class Agreement:
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

    def __init__(self, flat: Flat, ranks: Ranks) -> None:
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
        complain(failed, self._failure)
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
