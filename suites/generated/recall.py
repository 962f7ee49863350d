"""Multi-query associative recall (MQAR) after Arora et al. 2023, arXiv 2312.04927.

A sequence starts with pairs of a key and its value. Later each key occurs once more, and the
target there is its value. A model has to look up what it read before: attention of two layers
learns to, with a sudden rise of the accuracy. Unlike in the paper, where a power law favours
short distances, the second occurrences are spread evenly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.configuration import require_positive
from bench_apts.core.errors import UserError
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = -100
"""The target of positions that do not count: the default ``ignore_index`` of cross-entropy."""


def recall(train: int = 20_000, test: int = 2_000, length: int = 32, pairs: int = 4,
           vocabulary: int = 64, seed: int = 0) -> GeneratedSplits:
    """Return sequences of keys and values, and the value at each key's second occurrence.

    Args:
        train: The number of training sequences.
        test: The number of test sequences.
        length: The number of tokens of a sequence, at least ``3 * pairs``.
        pairs: The number of keys in a sequence.
        vocabulary: The number of tokens: 0 fills gaps, the lower half of the others are keys, the
            upper half values.
        seed: Determines all draws.

    Returns:
        Inputs int64 (n, length) in 0 ... vocabulary - 1; targets of the same shape and dtype,
        values at the second occurrences and ``IGNORED`` (-100) elsewhere. ``floor`` is the
        accuracy 1, ``baseline`` that of guessing one of the values.

    Raises:
        UserError: A size is not a positive integer, or a sequence or the vocabulary is too small
            for the pairs.
    """
    require_positive("data 'recall'", train=train, test=test, length=length, pairs=pairs,
             vocabulary=vocabulary)
    keys, values = (vocabulary - 1) // 2, vocabulary - 1 - (vocabulary - 1) // 2
    if length < 3 * pairs or keys < pairs:
        raise UserError(f"data 'recall': pairs = {pairs} needs a length of at least {3 * pairs}, "
                        f"not {length}, and a vocabulary of at least {2 * pairs + 1}, not "
                        f"{vocabulary}")

    def draw(name: str, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        draws = PortableDraws(f"recall {name}", seed)
        asked = 1 + draws.orders(rows, keys)[:, :pairs]
        answers = 1 + keys + draws.orders(rows, values)[:, :pairs]
        places = 2 * pairs + draws.orders(rows, length - 2 * pairs)[:, :pairs]
        inputs = np.zeros((rows, length), np.int64)
        targets = np.full((rows, length), IGNORED, np.int64)
        inputs[:, 0 : 2 * pairs : 2] = asked
        inputs[:, 1 : 2 * pairs : 2] = answers
        np.put_along_axis(inputs, places, asked, axis=1)
        np.put_along_axis(targets, places, answers, axis=1)
        return inputs, targets

    return GeneratedSplits({"train": draw("train", train), "test": draw("test", test)},
                           1.0, 1 / values)
