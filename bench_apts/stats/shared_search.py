"""What a shared search costs the optimizer that follows another's trajectory; times of tuning.

A follower shares the search, which is counted in samples. What a sample costs is its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core.currencies import CURRENCIES, TIME_CURRENCIES
from bench_apts.stats.trial_costs import TargetOutcome, cost_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench_apts.core.records import TrialRecord
    from bench_apts.stats.trial_costs import Cost

_ROUNDING = 0.02
"""Share of the loss, or its absolute value below 1, that rounding may grow to in a training."""


def follows(record: TrialRecord, searched: TrialRecord) -> bool:
    """Say whether two finished trials of the same configuration took the same course.

    Their validation losses must agree at every evaluation up to rounding. Where rounding is
    amplified, as with too high a learning rate, this says no although the mathematics is the
    same: the search is then paid twice, and nothing is claimed.

    Args:
        record: A trial of the one.
        searched: A trial of the other, on the same data from the same weights.
    """
    if not (record.finished and searched.finished):
        return False
    if record.trial.hyperparameters != searched.trial.hyperparameters:
        return False
    if [e.samples for e in record.evals] != [e.samples for e in searched.evals]:
        return False
    losses = [(a.validation.get("loss", math.inf), b.validation.get("loss", math.inf))
              for a, b in zip(record.evals, searched.evals, strict=True)]
    return bool(losses) and all(
        abs(a - b) <= _ROUNDING * max(1.0, abs(b)) for a, b in losses)


def sample_price(records: Iterable[TrialRecord]) -> Cost:
    """Return what a sample costs in training: all that trials spent over all their samples.

    Args:
        records: Trials that one optimizer ran itself, at one N.

    Returns:
        The price in each currency; NaN, unknown, where no trial took a step or one of them did
        not count the currency.
    """
    spent = [cost_at(record, -1) for record in records
             if record.evals and record.evals[-1].samples]
    samples = math.fsum(cost["samples"] for cost in spent)
    if not samples:
        return dict.fromkeys(CURRENCIES, math.nan)
    return {currency: math.fsum(cost[currency] for cost in spent) / samples
            for currency in CURRENCIES}


def reprice_for_follower(outcome: TargetOutcome, price: Cost) -> TargetOutcome:
    """Return the outcome of another optimizer's trial as it would cost its follower.

    Args:
        outcome: Of the trial, in which the follower would train on as many samples.
        price: The follower's own ``sample_price``.
    """
    return _converted(outcome, lambda cost: {
        currency: cost["samples"] * each for currency, each in price.items()})


def retime_tuning_outcome(outcome: TargetOutcome, price: Cost) -> TargetOutcome:
    """Return the outcome of a tuning trial with times as in the final trainings.

    Tuning runs before them, perhaps side by side with other trials, when the machine may be
    faster or slower; optimizers that need no tuning have no such trials.

    Args:
        outcome: Of a tuning trial.
        price: The ``sample_price`` of the same optimizer's final trainings. Currencies that are
            no times, and unknown prices, leave the outcome as it was recorded.
    """
    known = [currency for currency in TIME_CURRENCIES if not math.isnan(price[currency])]

    return _converted(outcome, lambda cost: cost | {
        currency: cost["samples"] * price[currency] for currency in known})


def _converted(outcome: TargetOutcome, convert: Callable[[Cost], Cost]) -> TargetOutcome:
    """Return an outcome with its costs converted; a miss still costs infinity."""
    spent = convert(outcome.spent)
    if not outcome.hit:
        return TargetOutcome(False, outcome.cost, None, spent)
    return TargetOutcome(True, spent, convert(outcome.last_miss or outcome.spent), spent)
