"""The one collective of the family: an all-reduce that knows when there is nobody to talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    import torch


class Ranks:
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
