"""Unequal labels: shards in which each rank sees other classes, and classes of unequal size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.errors import UserError

from ..sizes import at_least, positive
from .draws import Draws

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noniid(
    targets: NDArray[np.int64], ranks: int, concentration: float = 0.0, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Divide samples among ranks so that the classes are spread unevenly.

    Args:
        targets: The classes, int64 (n,), from 0.
        ranks: The number of shards.
        concentration: 0 sorts by class and cuts. Otherwise the shares of the classes in a shard
            follow a symmetric Dirichlet distribution of this parameter (Hsu et al. 2019, arXiv
            1909.06335), as far as samples are left: small values give shards of few classes,
            large values equal shares.
        seed: Determines which samples of a class are taken, and the shares.

    Returns:
        For each rank its indices, int64, in random order. Each sample is in one shard, and the
        sizes differ by at most one.

    Raises:
        UserError: The concentration is negative, or there are fewer samples than ranks.
    """
    at_least("data 'noniid'", 0, concentration=concentration)
    positive("data 'noniid'", ranks=ranks)
    if ranks > len(targets):
        raise UserError(f"data 'noniid': ranks = {ranks} are more than {len(targets)} samples")
    draws = Draws("noniid", seed)
    shuffled = draws.orders(1, len(targets))[0]
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    if concentration:
        by_class = _dirichlet(by_class, targets, ranks, concentration, draws)
    return [shard[draws.orders(1, len(shard))[0]] for shard in np.array_split(by_class, ranks)]


def _dirichlet(
    by_class: NDArray[np.int64],
    targets: NDArray[np.int64],
    ranks: int,
    concentration: float,
    draws: Draws,
) -> NDArray[np.int64]:
    """Return the samples in an order whose equal parts have classes of Dirichlet shares.

    Polya's urn: drawing a class with probability proportional to concentration + times drawn
    equals drawing from Dirichlet shares, and needs no logarithm.
    """
    left = np.bincount(targets)
    starts = np.cumsum(left) - left
    order: list[int] = []
    for part in np.array_split(by_class, ranks):
        urn = np.full(len(left), float(concentration))
        for uniform in draws.uniforms(len(part)).tolist():
            cumulated = np.cumsum(np.where(left > 0, urn, 0.0))
            chosen = int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))
            left[chosen] -= 1
            urn[chosen] += 1
            order.append(int(by_class[starts[chosen] + left[chosen]]))
    return np.array(order, np.int64)


def owners(
    targets: NDArray[np.int64], ranks: int, concentration: float = 0.0
) -> NDArray[np.int64]:
    """Return the rank of each sample, int64 (n,), as ``noniid`` divides them with seed 0.

    Raises:
        UserError: As ``noniid``, or the targets are not classes.
    """
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise UserError("key 'data.partition': targets are not classes, integers of the shape "
                        f"(n,), but {targets.dtype} of the shape {targets.shape}; leave it out")
    result = np.empty(len(targets), np.int64)
    for rank, shard in enumerate(noniid(targets, ranks, concentration)):
        result[shard] = rank
    return result


def longtail(
    targets: NDArray[np.int64], ratio: float = 20.0, seed: int = 0
) -> NDArray[np.int64]:
    """Choose samples so that the sizes of the classes fall geometrically.

    As in Cui et al. 2019 (arXiv 1901.05555): class k of K keeps the size of the smallest class
    times ratio**(-k / (K - 1)), rounded, and at least one sample.

    Args:
        targets: The classes, int64 (n,), from 0.
        ratio: The size of the first class over that of the last.
        seed: Determines which samples remain.

    Returns:
        Sorted indices, int64.

    Raises:
        UserError: The ratio is less than 1.
    """
    at_least("data 'longtail'", 1, ratio=ratio)
    shuffled = Draws("longtail", seed).orders(1, len(targets))[0]
    counts = np.bincount(targets)
    kept = [
        shuffled[targets[shuffled] == k][: max(1, round(
            int(counts.min()) * ratio ** (-k / max(1, len(counts) - 1))))]
        for k in range(len(counts))
    ]
    return np.sort(np.concatenate(kept))
