"""Where trials come from: what of their environments bears on times, and in what they differ.

Everything in the environment card counts but for a few keys, so that a field that is added counts,
too. A field that a record lacks, as an earlier version wrote it, is unknown and differs from none.

Whether one optimizer follows another's trajectory, and what the shared search costs it.

A follower shares the search, which is counted in samples. What a sample costs is its own.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench_apts.core.currencies import CURRENCIES, TIME_CURRENCIES
from bench_apts.stats.trial_costs import TargetOutcome, cost_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from bench_apts.core.records import TrialRecord
    Key = tuple[str, str]
    from collections.abc import Callable

    from bench_apts.stats.trial_costs import Cost

CODE = frozenset({"commit", "dirty", "bench-apts"})
"""Names of traits that say which bench-apts ran; studies of two of its versions are compared."""

SPREAD = frozenset({"nodes"})
"""Names of traits that depend on the world size."""

_HARMLESS = frozenset({"beside", "slurm", "commit_unknown"})
_PACKAGES = frozenset({"versions", "requires"})
"""Tables of which each record may have other keys; in all others a missing key means unset."""

_MOST_NAMED = 4
_MOST_VALUES = 4


class TrialOrigin(NamedTuple):
    """The environment of a trial: values by table ("" for none) and name, and its tables."""

    values: dict[Key, str]
    tables: frozenset[str]

    def value(self, key: Key) -> str | None:
        """Return a value; None if it is unknown."""
        found = self.values.get(key)
        if found is None and key[0] in self.tables and key[0] not in _PACKAGES:
            return "unset"
        return found


def origin_cards(records: Iterable[TrialRecord]) -> list[bytes]:
    """Return for each trial its environment card as JSON, with torch's switches in it."""
    return [origin_card(record.header.environment, record.start.numerics if record.start else {})
            for record in records]


def origin_card(
    environment: Mapping[str, Any], numerics: Mapping[str, Any] | None = None
) -> bytes:
    """Return an environment card as ``differences`` takes it."""
    whole = {**environment, "numerics": numerics} if numerics else environment
    return msgspec.json.encode(whole)


def origin_differences(written: Iterable[bytes],
                ignoring: Collection[str] = ()) -> dict[str, dict[str, int]]:
    """Find in what environments differ.

    Args:
        written: Cards as ``cards`` returns them.
        ignoring: Names that do not count.

    Returns:
        How many have each value, by the name of what differs; empty if they are alike.
    """
    numbers: list[tuple[TrialOrigin, int]] = [(_origin(each), number)
                                         for each, number in Counter(written).items()]
    if len(numbers) < 2:
        return {}
    found: dict[str, dict[str, int]] = {}
    for key in dict.fromkeys(key for origin, _ in numbers for key in origin.values):
        counts: Counter[str] = Counter()
        for origin, number in numbers:
            value = origin.value(key)
            if value is not None:
                counts[value] += number
        if len(counts) > 1 and key[1] not in ignoring:
            found[_title(key)] = dict(sorted(counts.items()))
    return found


def unlike(records: Iterable[TrialRecord], ignoring: Collection[str] = ()) -> str:
    """Say in what the environments of trials differ: ``torch (2.14.1, 2.15.0)``; "" if in nothing.

    Args:
        records: The trials.
        ignoring: Names that do not count.
    """
    return describe_origins(origin_differences(origin_cards(records), ignoring))


def describe_origins(found: Mapping[str, Mapping[str, int]]) -> str:
    """Write ``differences`` without the counts."""
    parts = [f"{name} ({', '.join(_first(list(values)))})"
             for name, values in list(found.items())[:_MOST_NAMED]]
    more = len(found) - _MOST_NAMED
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def count_origins(found: Mapping[str, Mapping[str, int]]) -> str:
    """Write ``differences`` with the number of trials for each value."""
    return "; ".join(
        f"{name}: " + ", ".join(_first([f"{value} ({number} trial{'s' * (number != 1)})"
                                        for value, number in values.items()]))
        for name, values in found.items())


def shares(records: Sequence[TrialRecord]) -> dict[tuple[tuple[str, str], ...], list[TrialRecord]]:
    """Sort trials by what differs in their environments: names and values, with the trials."""
    written = origin_cards(records)
    names = origin_differences(written)
    found: dict[tuple[tuple[str, str], ...], list[TrialRecord]] = {}
    for record, each in zip(records, written, strict=True):
        found.setdefault(_values(each, tuple(names)), []).append(record)
    return found


@lru_cache(maxsize=4096)
def _values(written: bytes, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    values = {_title(key): value for key, value in _origin(written).values.items()}
    return tuple((name, values.get(name, "unset or unknown")) for name in names)


@lru_cache(maxsize=4096)
def _origin(written: bytes) -> TrialOrigin:
    values: dict[Key, str] = {}
    tables = set()
    for key, value in msgspec.json.decode(written).items():
        if key in _HARMLESS:
            continue
        if key == "nodes":
            if isinstance(value, list) and len(value) > 1:
                values["", key] = _text(value)
        elif key == "gpus" and isinstance(value, list):  # not how many are visible
            values["", key] = _text(sorted({str(name) for name in value}))
        elif isinstance(value, dict):
            tables.add(key)
            values |= {(key, str(name)): _text(entry) for name, entry in value.items()}
        else:
            values["", key] = _text(value)
    return TrialOrigin(values, frozenset(tables))


def _title(key: Key) -> str:
    table, name = key
    return name if table else name.replace("_", " ")


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " + ".join(_text(entry) for entry in value)
    if isinstance(value, dict):
        return _text(value["hostname"]) if "hostname" in value else str(value)
    return str(value)


def _first(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _MOST_VALUES
    return [*texts[:_MOST_VALUES], *([f"{more} more"] if more > 0 else [])]


_ROUNDING = 0.02
"""Share of the loss, or its absolute value below 1, that rounding may grow to in a training."""


def follows(record: TrialRecord, leader: TrialRecord) -> bool:
    """Says whether two finished trials of the same configuration took the same course.

    Their validation losses must agree at every evaluation up to rounding. Where rounding is
    amplified, as with too high a learning rate, this says no although the mathematics is the
    same: the search is then paid twice, and nothing is claimed.

    Args:
        record: A trial of the one.
        leader: A trial of the other, on the same data from the same weights.
    """
    if not (record.finished and leader.finished):
        return False
    if record.trial.hyperparameters != leader.trial.hyperparameters:
        return False
    if [e.samples for e in record.evals] != [e.samples for e in leader.evals]:
        return False
    losses = [(a.validation.get("loss", math.inf), b.validation.get("loss", math.inf))
              for a, b in zip(record.evals, leader.evals, strict=True)]
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
    """Return the outcome of a leader's trial as it would cost its follower.

    Args:
        outcome: Of the leader's trial; it trained on as many samples as the follower would.
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
