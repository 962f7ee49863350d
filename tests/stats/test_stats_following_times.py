"""Times of tuning trials at the pace of the final trainings: by hand."""

import math

from msgspec.structs import replace
from stats_records import record

from bench_apts.stats.shared_search import retime_tuning_outcome, sample_price
from bench_apts.stats.trial_costs import outcome


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
