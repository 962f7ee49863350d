"""Replaying tuning policies over recorded trials, without running them (docs/measurement.md, 5).

Trials that ran unpruned say what any policy would have cost that only decides when to stop them.
Each policy meets the same random arrival orders, tunes until the target is hit, and is billed.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench_apts.stats.optuna_pruners import KINDS, Arrivals, Kind, count_evaluations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench_apts.stats.learning_curves import Curve, Direction

    Policy = Callable[[Sequence[Curve]], "PolicyRun"]
    """Tunes with trials in their order of arrival until one hits."""

ORDERS = 500
SHARES = (0.1, 0.5, 0.9)
_SEED = 27_182


class PolicyRun(NamedTuple):
    """What a policy did with one arrival order.

    Attributes:
        bill: All that was spent.
        hit: Whether the target was reached.
        pruned: Trials that were stopped.
        falsely: How many of them would have hit.
    """

    bill: float
    hit: bool
    pruned: int = 0
    falsely: int = 0


class Replayed(NamedTuple):
    """What a policy costs, over all arrival orders.

    Attributes:
        orders: Number of arrival orders.
        hit_rate: Share of orders in which the target was reached before trials ran out.
        bill: Mean bill of an order, reached or not.
        cost: Bills of all orders over the number of hits: the policy's ERT, infinite without.
        quantiles: Of the cost to the target by share, infinite where an order missed.
        pruned: Trials pruned in an order, on average.
        falsely_pruned: Share of the pruned that would have hit; NaN if none was pruned.
    """

    orders: int
    hit_rate: float
    bill: float
    cost: float
    quantiles: dict[float, float]
    pruned: float
    falsely_pruned: float


def replay_all(curves: Sequence[Curve], direction: Direction, *, races: Sequence[int] = (2, 4),
               orders: int = ORDERS, limit: int | None = None) -> dict[str, Replayed]:
    """Replay every policy that draws from one optimizer's search space, on the same orders.

    Args:
        curves: The pool of tuning trials.
        direction: Of the target's metric, ``"max"`` or ``"min"``.
        races: Numbers K of trials that race; those above the number of trials are left out.
        orders: Arrival orders; reports ask for 500 at least.
        limit: How many trials arrive in each.

    Returns:
        Results by policy: ``sequential``, ``race of 2`` …, ``median``, ``asha``,
        ``hyperband``.

    Raises:
        ValueError: As in ``shuffled``.
    """
    arrivals = shuffled(curves, orders=orders, limit=limit)
    policies: dict[str, Policy] = {"sequential": sequential}
    for draws in races:
        if draws <= len(arrivals[0]):
            policies[f"race of {draws}"] = partial(racing, draws=draws)
    for kind in KINDS:
        policies[kind] = pruning(kind, count_evaluations(curves), direction)
    return {name: replay(policy, arrivals) for name, policy in policies.items()}


def replay(policy: Policy, orders: Iterable[Sequence[Curve]]) -> Replayed:
    """Let a policy tune once for each arrival order.

    Args:
        policy: ``sequential``, or one of ``racing`` and ``pruning``.
        orders: From ``shuffled`` or ``listed``.

    Raises:
        ValueError: No orders.
    """
    runs = [policy(order) for order in orders]
    if not runs:
        raise ValueError("a replay needs an order")
    hits = sum(run.hit for run in runs)
    total = math.fsum(run.bill for run in runs)
    pruned = sum(run.pruned for run in runs)
    costs = np.array([run.bill if run.hit else math.inf for run in runs])
    return Replayed(
        len(runs), hits / len(runs), total / len(runs), total / hits if hits else math.inf,
        {share: float(np.quantile(costs, share, method="inverted_cdf")) for share in SHARES},
        pruned / len(runs),
        sum(run.falsely for run in runs) / pruned if pruned else math.nan)


def sequential(order: Sequence[Curve]) -> PolicyRun:
    """Run one trial after the other, each to its end, until the first hit."""
    return racing(order, 1)


def racing(order: Sequence[Curve], draws: int) -> PolicyRun:
    """Run K trials at a time, all ended by the first to hit; then the next K.

    Each is billed up to the winner's cost, or its own end if that came before. The currency has
    to run equally fast in all trials: seconds or samples, not bytes.

    Raises:
        ValueError: K is below 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    bill = 0.0
    for start in range(0, len(order), draws):
        group = order[start:start + draws]
        first = min((trial.spent for trial in group if trial.hit is not None), default=math.inf)
        bill += math.fsum(min(trial.spent, first) for trial in group)
        if math.isfinite(first):
            return PolicyRun(bill, True)
    return PolicyRun(bill, False)


def pruning(kind: Kind, length: int, direction: Direction) -> Policy:
    """Return the policy of one trial after the other, each of which a pruner may stop.

    Args:
        kind: Which pruner, set up as while tuning.
        length: How many evaluations a full trial has after its first step.
        direction: Of the target's metric, ``"max"`` or ``"min"``.
    """
    names = random.Random(_SEED)  # of the studies, from which Hyperband draws its brackets

    def policy(order: Sequence[Curve]) -> PolicyRun:
        study = Arrivals(kind, length, direction, f"{names.getrandbits(64):x}")
        bill, pruned, falsely = 0.0, 0, 0
        for trial in order:
            stopped = study.arrive(trial)
            if stopped is not None:
                bill += trial.costs[stopped]
                pruned += 1
                falsely += trial.hit is not None
                continue
            bill += trial.spent
            if trial.hit is not None:
                return PolicyRun(bill, True, pruned, falsely)
        return PolicyRun(bill, False, pruned, falsely)

    return policy


def shuffled(curves: Sequence[Curve], *, orders: int = ORDERS,
             limit: int | None = None) -> list[list[Curve]]:
    """Return random arrival orders of a pool of trials, without replacement.

    Args:
        curves: The pool.
        orders: How many orders; the same arguments give the same ones.
        limit: How many trials arrive; all of them by default.

    Raises:
        ValueError: No trials, no orders, or a limit that is not in 1 … n.
    """
    count = len(curves) if limit is None else limit
    if orders < 1 or not 1 <= count <= len(curves):
        raise ValueError(f"cannot draw {orders} orders of {count} out of {len(curves)} trials")
    return [[curves[place] for place in order]
            for order in _places(len(curves), count, orders)]


@lru_cache(maxsize=64)
def _places(trials: int, count: int, orders: int) -> list[list[int]]:
    """Draw arrival orders of the places of trials: the same for all pools of one size."""
    generator = random.Random(_SEED)
    return [generator.sample(range(trials), count) for _ in range(orders)]


def listed(groups: Mapping[str, Sequence[Curve]], *, ordered: bool,
           orders: int = ORDERS) -> list[list[Curve]]:
    """Return arrival orders of a list of configurations, each with one of its seeds at random.

    Args:
        groups: Trials of each configuration: the defaults of m optimizers, or a list of five.
        ordered: Whether they are tried as listed (an ordered list), or in random order
            (defaults, whose order is unknown).
        orders: How many orders; the same arguments give the same ones.

    Raises:
        ValueError: No configuration, no orders, or a configuration without a trial.
    """
    if orders < 1 or not groups or not all(groups.values()):
        raise ValueError("each configuration needs a trial, and a replay needs an order")
    generator = random.Random(_SEED)
    found = []
    for _ in range(orders):
        order = [generator.choice(list(trials)) for trials in groups.values()]
        if not ordered:
            generator.shuffle(order)
        found.append(order)
    return found
