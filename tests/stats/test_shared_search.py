"""What a shared search costs a follower: its leader's samples at its own price, by hand."""


import math

import pytest
from msgspec.structs import replace
from stats_records import record

from bench_apts.core.currencies import CURRENCIES
from bench_apts.stats.shared_search import (
    reprice_for_follower,
    retime_tuning_outcome,
    sample_price,
)
from bench_apts.stats.trial_costs import outcome

HIT, MISS = [0.1, 0.95, 0.95, 0.95], [0.1, 0.1, 0.1]


def test_a_price_is_all_that_was_spent_over_all_samples():
    # 2 ranks; k seconds and 1,000 k bytes at 100 k samples, and in the other trial at 50 k.
    price = sample_price([record(HIT), record(MISS, every=50)])
    assert price["train_s"] == pytest.approx((3 + 2) / (300 + 100))
    assert price["core_seconds"] == pytest.approx(2 * 5 / 400)
    assert price["wire_bytes"] == pytest.approx(5_000 / 400)
    assert price["samples"] == 1
    assert set(price) == set(CURRENCIES)


def test_what_was_not_counted_or_never_trained_is_unknown():
    assert math.isnan(sample_price([record(HIT), record(HIT, counted=False)])["flops"])
    assert all(map(math.isnan, sample_price([record([0.1])]).values()))


def test_a_leaders_trial_at_the_followers_price():
    price = sample_price([record(HIT, every=50)])  # twice the seconds and bytes of a sample
    hit, missed = outcome(record(HIT)), outcome(record(MISS))
    mine = reprice_for_follower(hit, price)
    assert mine.hit
    assert mine.cost["train_s"] == pytest.approx(2 * hit.cost["train_s"])
    assert mine.spent == mine.cost
    assert mine.cost["samples"] == hit.cost["samples"]
    lost = reprice_for_follower(missed, price)
    assert not lost.hit
    assert math.isinf(lost.cost["train_s"])
    assert lost.spent["wire_bytes"] == pytest.approx(2 * missed.spent["wire_bytes"])


def test_a_tuning_trial_is_timed_as_the_final_trainings_were():
    """Tuning ran at 1 s for 100 samples, the final trainings on a slower machine at 3 s."""
    final = record([0.1, 0.5, 0.95, 0.95], status="hit", ranks=1)
    final.evals = [replace(event, train_s=3 * event.train_s, cpu_s=2.0 * event.train_s,
                           all_ranks_cpu_s=None) for event in final.evals]
    price = sample_price([final])
    tuned = outcome(record([0.1, 0.2, 0.95, 0.95], status="hit", ranks=1))
    found = retime_tuning_outcome(tuned, price)
    assert (tuned.cost["train_s"], found.cost["train_s"]) == (2.0, 6.0)  # 200 samples
    assert found.spent["core_seconds"] == 6.0
    assert found.cost["cpu_s"] == 4.0
    assert found.last_miss["train_s"] == 3.0
    for currency in ("samples", "wire_bytes", "gradient_evaluations", "flops"):
        assert found.cost[currency] == tuned.cost[currency]


def test_a_miss_stays_a_miss_and_what_is_unknown_is_left():
    missed = outcome(record([0.1, 0.5], ranks=2))
    unknown = sample_price([record([0.1])])  # no step, no pace
    assert retime_tuning_outcome(missed, unknown).spent == missed.spent
    price = sample_price([record([0.1, 0.5, 0.6], ranks=2)])
    found = retime_tuning_outcome(missed, price | {"train_s": 0.5})
    assert math.isinf(found.cost["train_s"])
    assert found.last_miss is None
    assert found.spent["train_s"] == 50.0  # 100 samples
