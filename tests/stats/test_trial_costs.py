from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stats_records import record, suite

from bench_apts.core.currencies import CURRENCIES, Currency, headline
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.trial_costs import (
    all_known,
    best_metric,
    cost_at,
    cost_recorded,
    costs_along,
    find_bracket,
    hit_bracket,
    outcome,
    outcomes,
    select_best,
    select_fastest,
)


def test_a_hit_is_billed_up_to_its_first_hit_in_every_currency():
    result = outcome(record([0.1, 0.5, 0.91, 0.95, 0.97], status="hit", ranks=4))
    assert result.hit
    assert result.cost == {"core_seconds": 8.0, "train_s": 2.0, "wall_s": 9.0,
                           "wire_bytes": 2_000.0, "gradient_evaluations": 20.0,
                           "flops": 10.0, "samples": 200.0, "cpu_s": 6.0, "energy_j": 400.0}
    assert result.spent == result.cost
    assert result.last_miss is not None
    assert result.last_miss["train_s"] == 1.0


def test_the_first_evaluation_can_hit():
    result = outcome(record([0.95, 0.95]))
    assert result.cost["train_s"] == 0.0
    assert result.last_miss == dict.fromkeys(CURRENCIES, 0.0)


def test_a_miss_costs_infinity_and_is_billed_everything():
    missed = record([0.1, 0.5], end={"wall_s": 30.0, "ledger": {"train_s": 4.0}, "samples": 350})
    result = outcome(missed)
    assert not result.hit
    assert result.last_miss is None
    assert set(result.cost.values()) == {math.inf}
    assert result.spent == {"core_seconds": 8.0, "train_s": 4.0, "wall_s": 30.0,
                            "wire_bytes": 1_000.0, "gradient_evaluations": 10.0,
                            "flops": 5.0, "samples": 350.0, "cpu_s": 3.0, "energy_j": 200.0}


def test_cpu_seconds_are_those_of_all_ranks_and_unknown_where_only_the_busiest_was_kept():
    alone, two = record([0.1, 0.5], ranks=1), record([0.1, 0.5], ranks=2)
    for each in (alone, two):
        each.evals = [replace(event, cpu_s=2.0, all_ranks_cpu_s=None) for event in each.evals]
    assert cost_at(alone, 1)["cpu_s"] == 2.0  # the busiest of one rank is all of them
    assert math.isnan(cost_at(two, 1)["cpu_s"])
    assert not all_known([outcome(two)], "cpu_s")
    assert all_known([outcome(two)], "samples")


def test_comparisons_lead_with_samples_on_cpus_and_with_gpu_seconds_on_cuda():
    assert (headline("cpu"), headline("cuda")) == ("samples", "core_seconds")


def test_energy_that_no_sensor_read_is_unknown():
    drawn = record([0.1, 0.95, 0.95])
    drawn.evals = [replace(event, energy_j=None) for event in drawn.evals]
    assert math.isnan(outcome(drawn).cost["energy_j"])
    assert not all_known([outcome(drawn)], "energy_j")


@pytest.mark.parametrize("status", ["diverged", "error", "timeout", "oom", "interrupted"])
def test_any_bad_end_is_billed_what_it_recorded(status):
    assert outcome(record([0.1, 0.5, 0.6], status=status)).spent["core_seconds"] == 4.0


def test_a_trial_without_end_or_evaluation():
    assert cost_recorded(record([], status=None)) == dict.fromkeys(CURRENCIES, 0.0)
    assert cost_recorded(record([0.1, 0.2], status=None))["samples"] == 100.0
    crashed = record([], status="error", end={"wall_s": 3.0})
    assert cost_recorded(crashed)["wall_s"] == 3.0
    assert cost_recorded(crashed)["core_seconds"] == 0.0


def test_operations_that_were_never_counted_are_unknown_and_no_miss():
    hit, missed = record([0.1, 0.95, 0.95], counted=False), record([0.1, 0.5], counted=False)
    drawn = [outcome(hit), outcome(missed)]
    assert math.isnan(drawn[0].cost["flops"])
    assert drawn[1].cost["flops"] == math.inf
    assert all(math.isnan(o.spent["flops"]) for o in drawn)
    assert not all_known(drawn, "flops")
    assert all_known(drawn, "samples")
    assert all_known([outcome(record([0.1, 0.95, 0.95])), outcome(record([0.1]))], "flops")
    with pytest.raises(ValueError, match="bill of trial 0 is nan"):
        ert([o.spent["flops"] for o in drawn], [o.cost["flops"] for o in drawn])


def test_currencies_are_those_of_an_outcome():
    assert tuple(outcome(record([0.1, 0.2])).spent) == tuple(CURRENCIES) == get_args(Currency)
    assert tuple(cost_recorded(record([0.1], end={"wall_s": 1.0}))) == tuple(CURRENCIES)


def test_a_trial_that_hit_and_diverged_later_has_hit():
    assert outcome(record([0.1, 0.91, 0.92, 0.1], status="diverged")).spent["train_s"] == 1.0


def test_levels_are_shares_of_the_target():
    found = outcomes(record([0.1, 0.86, 0.86, 0.895, 0.895, 0.9, 0.9]))
    assert [found[level].cost["train_s"] for level in (0.95, 0.99, 1.0)] == [1.0, 3.0, 5.0]


def test_every_level_is_billed_as_by_itself():
    for values in ([0.1, 0.86, 0.86, 0.895, 0.895, 0.9, 0.9], [0.1, 0.2], []):
        drawn = record(values)
        assert outcomes(drawn) == {level: outcome(drawn, level) for level in (0.95, 0.99, 1.0)}


@pytest.mark.parametrize("currency", list(CURRENCIES))
def test_costs_along_a_trial_are_those_at_its_evaluations(currency):
    drawn = record([0.1, 0.5, 0.6], ranks=4)
    assert costs_along(drawn, currency) == [cost_at(drawn, at)[currency] for at in range(3)]


def test_a_minimised_metric_and_a_missing_one():
    problem = suite("min", 0.5)
    assert hit_bracket(record([2.0, 0.6, 0.5, 0.4], problem=problem)) == (1, 2)
    assert hit_bracket(record([2.0, 0.52, 0.52], problem=problem), 0.95) == (0, 1)
    blind = record([0.95, 0.95])
    for event in blind.evals:
        event.validation.clear()
    assert hit_bracket(blind) is None


def at_least(threshold):
    return lambda value: value >= threshold


@pytest.mark.parametrize(("values", "consecutive", "expected"), [
    ([], 2, None),
    ([0.1, 0.9, 0.9], 2, (0, 1)),
    ([0.9, 0.9], 2, (None, 0)),
    ([0.9], 2, None),  # the second evaluation that a hit needs does not exist
    ([0.9], 1, (None, 0)),
    ([0.1, 0.9, 0.1, 0.9, 0.9], 2, (2, 3)),  # a single lucky one does not count
    ([0.9, math.nan, 0.9, 0.9], 2, (1, 2)),
    ([0.9, 0.9, 0.1, 0.1], 2, (None, 0)),  # falling back later changes nothing
    ([0.1, 0.9, 0.9, 0.9], 3, (0, 1)),
])
def test_known_answers(values, consecutive, expected):
    assert find_bracket(values, at_least(0.9), consecutive) == expected


def test_nan_never_reaches_even_if_the_caller_says_so():
    assert find_bracket([math.nan] * 3, lambda value: not value < 0.9, 2) is None


def test_consecutive_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        find_bracket([0.9], at_least(0.9), 0)


@given(st.lists(st.sampled_from([0.0, 1.0, math.nan]), max_size=12), st.integers(1, 4))
def test_agrees_with_the_definition(values, consecutive):
    windows = [start for start in range(len(values) - consecutive + 1)
               if all(value == 1.0 for value in values[start:start + consecutive])]
    expected = (windows[0] - 1 if windows[0] else None, windows[0]) if windows else None
    assert find_bracket(values, at_least(0.5), consecutive) == expected


FAST = [0.1, 0.9, 0.9]
SLOW = [0.1, 0.2, 0.9, 0.99]


def test_fewest_samples_to_the_full_target_wins_not_the_best_metric():
    trials = [record(SLOW, status="hit"), record(FAST, status="hit", repetition=1)]
    assert select_fastest(trials) is trials[1]


def test_samples_count_not_evaluations():
    trials = [record(FAST, every=300), record(SLOW, every=100, repetition=1)]
    assert select_fastest(trials) is trials[1]


def test_lower_levels_come_next():
    # 0.9 is the target: 0.892 reaches 99 % of it, 0.86 reaches 95 %.
    at_95 = record([0.86, 0.86, 0.86])
    at_99 = record([0.1, 0.1, 0.1, 0.892, 0.892], repetition=1)
    assert select_fastest([at_95, at_99]) is at_99
    assert select_fastest([at_95, record([0.5, 0.87, 0.84], repetition=2)]) is at_95


def test_the_best_metric_is_the_last_resort():
    trials = [record([0.3, 0.5]), record([0.6, 0.2], repetition=1)]
    assert select_fastest(trials) is trials[1]


def test_a_minimised_metric():
    problem = suite("min", 0.1)
    trials = [record([2.0, 1.0], problem=problem),
              record([2.0, 0.7], problem=problem, repetition=1)]
    assert select_fastest(trials) is trials[1]
    assert best_metric(trials[1]) == -0.7


@pytest.mark.parametrize("values", [FAST, [0.3, 0.4]])
def test_ties_go_to_the_lower_repetition(values):
    later, earlier = record(values, repetition=3), record(values, repetition=1)
    assert select_fastest([later, earlier]) is earlier


@pytest.mark.parametrize("status", ["diverged", "error", "oom"])
def test_broken_trials_count_only_when_there_is_nothing_else(status):
    broken, poor = record(FAST, status=status), record([0.2, 0.3], repetition=1)
    assert select_fastest([broken, poor]) is poor
    assert select_fastest([broken, record([], repetition=1)]) is broken


def test_the_best_at_the_end_of_the_budget_is_not_the_fastest():
    fast = record([0.1, 0.95, 0.95] + [0.9] * 8, status="hit")
    slow = record([0.1] * 8 + [0.95, 0.95, 0.94], status="hit", repetition=1)
    peak = record([0.99] * 10 + [0.5], status="hit", repetition=2)
    assert select_fastest([fast, slow]) is fast
    assert select_best([fast, slow, peak]) is slow
    # Who ran out of time was not seen at the end.
    assert select_best([fast, record([0.1, 0.99, 0.99], status="timeout", repetition=1)]) is fast
    assert select_best([record([0.1, 0.3], status="pruned"),
                        record([0.1, 0.4], status="pruned", repetition=1)]
                       ).trial.repetition == 1


def test_the_least_loss_at_the_end():
    problem = suite("min", 0.1)
    trials = [record([2.0] * 10 + [last], problem=problem, repetition=number)
              for number, last in enumerate((0.3, 0.2, 0.2))]
    assert select_best(trials) is trials[1]


def test_nothing_to_select():
    assert select_fastest([]) is select_best([]) is None
    assert select_fastest([record([], status="error"), record([], status=None)]) is None
