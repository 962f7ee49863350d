"""Training minibatches that a stepper may draw to prepare for an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.plugins.contract import Batch


class Offered:
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
