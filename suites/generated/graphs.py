"""Random graphs of three classes whose degrees are all the same.

Each graph has 12 nodes of degree 2 and 12 of degree 4, and 36 edges. The classes differ in how
many edges join nodes of different degrees: few (4, 6 or 8), some (10, 12 or 14) or many (16, 18
or 20). No statistic of the degrees distinguishes them. A network needs two rounds of messages: one
for the degree of a node, one for the degrees of its neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.configuration import require_positive
from bench_apts.suites.generated.draws import GeneratedSplits, PortableDraws

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEGREES = np.repeat([2, 4], 12)
NODES = len(DEGREES)
MIXED = np.array([[4, 6, 8], [10, 12, 14], [16, 18, 20]])
"""For each class, how many edges may join nodes of degree 2 and 4; equally likely."""


def graphs(train: int = 9_000, test: int = 1_800, seed: int = 0) -> GeneratedSplits:
    """Return graphs as matrices, the classes equally frequent to within one.

    Args:
        train: The number of training graphs.
        test: The number of test graphs.
        seed: Determines all draws.

    Returns:
        Inputs float32 (n, 24, 25), nodes in random order: an adjacency matrix, symmetric, 0 or 1,
        without loops, and next to it one feature of each node, always 1. Targets: classes int64
        (n,). ``floor`` is the accuracy 1, ``baseline`` 1/3.

    Raises:
        UserError: A number of graphs is not a positive integer.
    """
    require_positive("data 'graphs'", train=train, test=test)

    def draw(name: str, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        draws = PortableDraws(f"graphs {name}", seed)
        targets = draws.orders(1, rows)[0] % len(MIXED)
        mixed = MIXED[targets, draws.integers(MIXED.shape[1], rows)]
        adjacency = _simple(draws, mixed)
        order = draws.orders(rows, NODES)
        adjacency = np.take_along_axis(adjacency, order[:, :, None], axis=1)
        adjacency = np.take_along_axis(adjacency, order[:, None, :], axis=2)
        inputs = np.ones((rows, NODES, NODES + 1), np.float32)
        inputs[:, :, :NODES] = adjacency
        return inputs, targets

    return GeneratedSplits({"train": draw("train", train), "test": draw("test", test)},
                           1.0, 1 / len(MIXED))


def _simple(draws: PortableDraws, mixed: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw simple graphs with ``mixed`` edges between nodes of degree 2 and 4, uint8 (n, 24, 24).

    Ends of edges are joined at random (the configuration model), again for the graphs in which an
    edge is a loop or double: all simple graphs with these numbers are equally likely.
    """
    result = np.zeros((len(mixed), NODES, NODES), np.uint8)
    low, high = np.repeat(np.arange(12), 2), np.repeat(np.arange(12, 24), 4)
    pending = np.arange(len(mixed))
    while len(pending):
        few = low[draws.orders(len(pending), len(low))]
        many = high[draws.orders(len(pending), len(high))]
        # The first `mixed` ends of each kind are joined to the other kind, the rest pairwise.
        # As `mixed` is even, it is enough to join ends 2i and 2i + 1 unless both are below it.
        crossing = np.arange(len(low)) < mixed[pending, None]
        made = np.zeros((len(pending), NODES, NODES), np.uint8)
        rows = np.broadcast_to(np.arange(len(pending))[:, None], few.shape)
        np.add.at(made, (rows[crossing], few[crossing], many[:, : len(low)][crossing]), 1)
        for ends in (few, many):
            inside = np.arange(ends.shape[1] // 2)[None, :] * 2 >= mixed[pending, None]
            rows = np.broadcast_to(np.arange(len(pending))[:, None], inside.shape)
            np.add.at(made, (rows[inside], ends[:, ::2][inside], ends[:, 1::2][inside]), 1)
        made += made.transpose(0, 2, 1)
        good = (made.max(axis=(1, 2)) == 1) & (np.trace(made, axis1=1, axis2=2) == 0)
        result[pending[good]] = made[good]
        pending = pending[~good]
    return result
