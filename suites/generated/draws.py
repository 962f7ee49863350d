"""Random draws that are the same bit for bit on every machine and for every version of NumPy.

NumPy never changes the raw output of a bit generator, but may change what ``Generator`` makes of
it. Logarithms and sines differ between processors in the last bit. So all draws here are made from
raw output by integer arithmetic and by single IEEE operations (+, -, *, /), which are exact or
rounded in one way only.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GeneratedSplits(dict[str, "tuple[NDArray[Any], NDArray[Any]]"]):
    """A data set: pairs of inputs and targets, equally long, by the name of the split.

    Attributes:
        floor: The best value of the metric that any model can expect on new samples, or None if
            it is not known.
        baseline: The value of the best answer that ignores the inputs.
    """

    def __init__(self, splits: dict[str, tuple[NDArray[Any], NDArray[Any]]], floor: float | None,
                 baseline: float) -> None:
        super().__init__(splits)
        self.floor, self.baseline = floor, baseline


class PortableDraws:
    """A stream of random numbers for one purpose; the streams of two purposes are independent."""

    def __init__(self, purpose: str, seed: int) -> None:
        digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
        self._generator = np.random.PCG64(int.from_bytes(digest[:16], "big"))

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """Return uniform 64-bit words, uint64 of the given shape."""
        words: NDArray[np.uint64] = self._generator.random_raw(math.prod(shape))
        return words.reshape(shape)

    def uniforms(self, *shape: int) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1), multiples of 2**-53, float64 of the given shape."""
        return (self.words(*shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, below: int, *shape: int) -> NDArray[np.int64]:
        """Return integers from 0 to ``below - 1``, int64; equally likely to within 2**-32."""
        high = self.words(*shape) >> np.uint64(32)
        return ((high * np.uint64(below)) >> np.uint64(32)).astype(np.int64)

    def normals(self, *shape: int) -> NDArray[np.float64]:
        """Return nearly normal numbers of mean 0 and variance 1, float64 of the given shape.

        Each is a sum of twelve uniform 16-bit integers (Irwin-Hall), shifted and scaled: exact
        mean and variance, tails that end at 6, and no logarithm.
        """
        result = np.empty(math.prod(shape))
        for start in range(0, len(result), 1 << 20):  # bounds the memory taken by the words
            part = result[start : start + (1 << 20)]
            sums = self.words(len(part), 3).view(np.uint16).sum(axis=1, dtype=np.int64)
            part[:] = (sums - 6 * 65_535) / math.sqrt(65_536**2 - 1)
        return result.reshape(shape)

    def orders(self, rows: int, length: int) -> NDArray[np.int64]:
        """Return a permutation of 0 ... ``length - 1`` in each row, int64 (rows, length)."""
        return np.argsort(self.words(rows, length), axis=1, kind="stable").astype(np.int64)


def sine_of_pi_times(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sin(pi x) for x in [0, 1], float64, to within 1e-15.

    Summed by Horner's scheme as the Taylor series of cos(pi (x - 1/2)), for the reason given at
    the head of this module.
    """
    coefficients = [1.0]
    for k in range(12):
        coefficients.append(-coefficients[-1] * math.pi**2 / ((2 * k + 1) * (2 * k + 2)))
    square = (x - 0.5) * (x - 0.5)
    result = np.full_like(square, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * square + coefficient
    return result
