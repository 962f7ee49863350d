"""Bytes of quantised means (``quantized_mean``), and the hyperparameters of methods that use them.

Listing backends must not import torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bench_apts.contract import Hyperparameter

BITS = (2, 3, 4, 8, 16, 32)
"""Bits of a number; 32 are float32 itself."""


def message(bits: int, feedback: bool) -> dict[str, Hyperparameter]:
    """Return the hyperparameters of a message, with defaults."""
    from bench_apts.contract import Hyperparameter  # which a library of them does without

    return {
        "bits": Hyperparameter(bits, "bits of a number that is sent; all but 32 go in an "
                               "all-to-all and an all-gather", options=BITS),
        "block": Hyperparameter(256, "numbers that share a step of fewer bits, a multiple of 8",
                                least=8),
        "feedback": Hyperparameter(
            feedback, "round to the nearest and add what a message loses to the next one; else "
            "round at random, without bias"),
    }


class Layout(NamedTuple):
    """How a vector is cut into chunks and blocks.

    Attributes:
        size: n, numbers in the vector.
        ranks: N.
        bits: Of a number, one of ``BITS``.
        block: Numbers that share a step, a multiple of 8.
    """

    size: int
    ranks: int
    bits: int
    block: int

    @property
    def chunk(self) -> int:
        """Numbers in a rank's chunk, a multiple of 32; the last chunks may lack some."""
        return 32 * math.ceil(self.size / (32 * self.ranks))

    @property
    def steps(self) -> int:
        """Steps δ of a chunk, float32."""
        return 0 if self.bits == 32 else math.ceil(self.chunk / self.block)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk's message."""
        return 4 * self.steps + self.chunk * self.bits // 8

    @property
    def payloads(self) -> dict[str, int]:
        """Bytes of the two messages by collective: ideally (N − 1)/N of each are sent."""
        return self.payloads_with(0)

    def payloads_with(self, scalars: int) -> dict[str, int]:
        """Return the bytes where so many scalars are summed along."""
        if self.ranks == 1:
            return {}
        total = self.ranks * self.chunk_bytes
        return {"all_to_all": total, "all_gather": total + self.ranks * 4 * scalars}

    def span(self, rank: int) -> slice:
        """Return where the chunk of a rank lies in the vector; it may be empty."""
        return slice(min(self.size, rank * self.chunk), min(self.size, (rank + 1) * self.chunk))
