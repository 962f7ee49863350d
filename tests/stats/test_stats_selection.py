from __future__ import annotations

import pytest
from stats_records import record, suite

from bench_apts.stats.trial_costs import best_metric, select_best, select_fastest

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
