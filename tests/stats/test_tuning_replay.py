from __future__ import annotations

import math
import random
import subprocess
import sys
from functools import partial

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stats_records import record

from bench_apts.stats.expected_cost import hit_probability, sequential_bill
from bench_apts.stats.learning_curves import curve, make_curve
from bench_apts.stats.optuna_pruners import KINDS, Arrivals, count_evaluations, make_pruner
from bench_apts.stats.tuning_replay import (
    PolicyRun,
    listed,
    pruning,
    racing,
    replay,
    replay_all,
    sequential,
    shuffled,
)

INF = math.inf


def trial(values, hit=None, every=100):
    """A curve of which each evaluation costs one more; the first one is of the untrained model."""
    costs = tuple(map(float, range(len(values))))
    return make_curve(tuple(every * k for k in range(len(values))), tuple(values), costs, hit,
                      costs[-1] if hit is None else costs[hit])


def noisy(trials=12, hits=3, evaluations=12, seed=0):
    """A pool in which good curves may look bad for a while."""
    generator = random.Random(seed)
    pool = []
    for index in range(trials):
        best, speed = generator.uniform(0.4, 1.0), generator.uniform(0.1, 0.6)
        values = [best * (1 - math.exp(-speed * k)) + generator.gauss(0, 0.03)
                  for k in range(evaluations + 1)]
        pool.append(trial(values, generator.randint(6, evaluations) if index < hits else None))
    return pool


def test_sequential_meets_its_closed_form():
    pool = noisy()
    spent = [t.spent for t in pool]
    cost = [t.spent if t.hit is not None else INF for t in pool]
    found = replay(sequential, shuffled(pool, orders=20_000))
    assert found.bill == pytest.approx(sequential_bill(spent, cost), rel=0.02)
    assert found.cost == found.bill
    assert found.hit_rate == 1.0
    assert found.pruned == 0
    assert math.isnan(found.falsely_pruned)
    assert found.quantiles[0.1] <= found.quantiles[0.5] <= found.quantiles[0.9]


def test_a_single_race_hits_as_often_as_its_closed_form_says():
    found = replay(partial(racing, draws=4), shuffled(noisy(), orders=5_000, limit=4))
    assert found.hit_rate == pytest.approx(hit_probability(12, 3, 4), abs=0.03)


def test_races_by_hand():
    hit, slow, miss = trial([0] * 4, 2), trial([0] * 9, 8), trial([0] * 2)
    # The winner costs 2; the slow one runs as long; the miss had ended at 1.
    assert racing([slow, hit, miss], 3) == PolicyRun(5.0, True)
    assert racing([miss, miss, hit], 2) == PolicyRun(4.0, True)
    assert racing([miss], 4) == PolicyRun(1.0, False)
    with pytest.raises(ValueError, match="at least 1"):
        racing([miss], 0)


def test_orders_that_miss_are_not_imputed():
    found = replay(sequential, [[trial([0, 1], 1)], [trial([0] * 6)], [trial([0] * 6)]])
    assert found.hit_rate == pytest.approx(1 / 3)
    assert found.bill == pytest.approx(11 / 3)
    assert found.cost == 11.0
    assert found.quantiles == {0.1: 1.0, 0.5: INF, 0.9: INF}
    assert replay(sequential, [[trial([0] * 6)]]).cost == INF


def decisions_of_a_real_study(kind, length, direction, name, order):
    """At which evaluation a study prunes each trial, asked at each of them; None at none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states = optuna.trial.TrialState
    study = optuna.create_study(study_name=name, pruner=make_pruner(kind, length),
                                direction=f"{direction}imize")
    decisions = []
    for arrived in order:
        asked = study.ask()
        pruned = None
        for index in range(1, len(arrived.steps)):
            asked.report(arrived.values[index], index)
            if asked.should_prune():
                pruned = index
                break
        study.tell(asked, 0.0 if pruned is None else None,
                   state=states.COMPLETE if pruned is None else states.PRUNED)
        decisions.append(pruned)
    return decisions


@pytest.mark.parametrize("kind", KINDS)
# Beyond 200 evaluations ASHA's first rung is the second one.
@pytest.mark.parametrize(("direction", "length", "unknown"), [
    ("max", 12, 0), ("min", 12, 0), ("max", 12, 4), ("max", 210, 0)])
def test_decisions_are_those_of_a_real_study(kind, direction, length, unknown):
    # To be minimised, curves fall.
    pool = [t if direction == "max" else t._replace(values=tuple(-v for v in t.values))
            for t in noisy(18, hits=0, evaluations=length)]
    # Some know nothing from their third evaluation on, others only then, or end early.
    pool[:unknown] = [
        t._replace(values=(*t.values[:3], *[math.nan] * (length - 2)) if index % 2
                   else (0.0, math.nan, math.nan, *t.values[3:]))
        for index, t in enumerate(pool[:unknown])]
    pool[unknown:2 * unknown] = [t._replace(steps=t.steps[:7], values=t.values[:7])
                                 for t in pool[unknown:2 * unknown]]
    assert count_evaluations(pool) == length
    decided = set()
    for seed in range(4):
        order = random.Random(seed).sample(pool, len(pool))
        expected = decisions_of_a_real_study(kind, length, direction, f"s{seed}", order)
        ours = Arrivals(kind, length, direction, f"s{seed}")
        assert [ours.arrive(arrived) for arrived in order] == expected
        decided.update(expected)
    # Both decisions were met, and pruning at more than one evaluation.
    assert None in decided
    assert len(decided) > 2


# Ties, infinities and unknown values are likely, and any other value is possible.
METRIC = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan, INF, -INF]),
                   st.floats(width=32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:All-NaN|invalid value:RuntimeWarning")
@settings(max_examples=60, deadline=None)
@given(direction=st.sampled_from(["max", "min"]), name=st.text("abc", max_size=9),
       curves=st.lists(st.lists(METRIC, max_size=14), min_size=7, max_size=14),
       length=st.sampled_from([1, 3, 9, 14, 30]))
def test_every_decision_is_optunas_whatever_the_curves_are(kind, direction, name, curves, length):
    order = [trial([0.0, *values]) for values in curves]
    ours = Arrivals(kind, length, direction, name)
    assert ([ours.arrive(arrived) for arrived in order]
            == decisions_of_a_real_study(kind, length, direction, name, order))


def test_unknown_metrics_are_pruned_without_a_warning(recwarn):
    pool = [*[trial([0, 5, 6, 7])] * 5, trial([0, math.nan, 1, 2])]
    assert pruning("median", 3, "max")(pool) == PolicyRun(16.0, False, 1)
    diverged = [trial([0, INF, INF, INF])] * 6
    assert pruning("median", 3, "max")([*diverged, trial([0, 1, 2, 3])]).pruned == 0
    assert [str(each.message) for each in recwarn.list] == []


def test_falsely_pruned_trials_are_counted_and_billed_up_to_there():
    # Five good misses first, then a slow starter that would have hit: the median stops it.
    good = [trial([0, 5, 6, 7])] * 5
    late = trial([0, 1, 2, 9, 9], 3)
    run = pruning("median", 4, "max")([*good, late])
    assert run == PolicyRun(5 * 3.0 + 1.0, False, 1, 1)
    # Without anything to compare it with, it is left alone.
    assert pruning("median", 4, "max")([late]) == PolicyRun(3.0, True)
    found = replay(pruning("median", 4, "max"), [[*good, late], [late, *good]])
    assert found.hit_rate == 0.5
    assert found.falsely_pruned == 1.0
    assert found.pruned == 0.5


def test_the_untrained_model_is_not_reported():
    # Its 9 would be the best value of a trial that is otherwise below the median.
    good = [trial([0, 5, 6, 7])] * 5
    lucky = trial([9, 1, 2, 3])
    assert pruning("median", 3, "max")([*good, lucky]) == PolicyRun(16.0, False, 1)


def test_the_evaluation_that_hits_is_not_judged():
    good = [trial([0, 5, 6, 7])] * 5
    assert pruning("median", 3, "max")([*good, trial([0, 1], 1)]) == PolicyRun(16.0, True)


def test_lists_of_configurations():
    groups = {"first": [trial([0, 0])], "second": [trial([0, 0, 1], 2), trial([0] * 4, 3)],
              "third": [trial([0] * 9)]}
    ordered = replay(sequential, listed(groups, ordered=True, orders=4_000))
    # The first misses for 1, then a seed of the second hits for 2 or 3.
    assert ordered.bill == pytest.approx(3.5, abs=0.05)
    assert ordered.hit_rate == 1.0
    mixed = replay(sequential, listed(groups, ordered=False, orders=4_000))
    # Each of the others comes before the second half of the time.
    assert mixed.bill == pytest.approx(2.5 + (1 + 8) / 2, rel=0.03)
    with pytest.raises(ValueError, match="needs a trial"):
        listed({"a": []}, ordered=True)


def test_all_policies_on_the_same_orders():
    pool = noisy(10)
    found = replay_all(pool, "max", races=(2, 99), orders=40)
    assert list(found) == ["sequential", "race of 2", *KINDS]
    assert found == replay_all(pool, "max", races=(2, 99), orders=40)
    assert found["sequential"] == replay(sequential, shuffled(pool, orders=40))
    assert found["asha"].pruned > 0
    assert all(result.orders == 40 for result in found.values())


def test_costs_scale_and_decisions_do_not():
    pool = noisy(10)
    dearer = [t._replace(costs=tuple(4 * c for c in t.costs), spent=4 * t.spent) for t in pool]
    for name, result in replay_all(dearer, "max", orders=30).items():
        plain = replay_all(pool, "max", orders=30)[name]
        assert result.bill == 4 * plain.bill
        assert (result.hit_rate, result.pruned) == (plain.hit_rate, plain.pruned)


def test_curves_of_records():
    found = curve(record([0.1, 0.5, 0.91, 0.95], ranks=4), "core_seconds")
    assert found == ((0, 100, 200, 300), (0.1, 0.5, 0.91, 0.95), (0.0, 4.0, 8.0, 12.0), 2, 8.0)
    missed = curve(record([0.1, 0.5], end={"samples": 350}), "samples")
    assert missed == ((0, 100), (0.1, 0.5), (0.0, 100.0), None, 350.0)
    assert curve(record([0.1, 0.86, 0.86]), "samples", 0.95).hit == 1
    crashed = curve(record([], status="error", end={"wall_s": 3.0}), "wall_s")
    assert crashed == ((), (), (), None, 3.0)
    with pytest.raises(ValueError, match="must be known"):
        curve(record([0.1, 0.5], counted=False), "flops")


@pytest.mark.parametrize(("steps", "costs", "hit", "spent", "message"), [
    ((1, 1), (1.0, 2.0), None, 2.0, "increase"),
    ((1, 2), (2.0, 1.0), None, 2.0, "decrease"),
    ((1, 2), (1.0, 2.0), None, 1.5, "decrease"),
    ((1, 2), (1.0,), None, 1.0, "length"),
    ((1, 2), (1.0, 2.0), 2, 2.0, "must be an evaluation"),
    ((1, 2), (1.0, 2.0), 0, 2.0, "bill ends"),
])
def test_impossible_curves(steps, costs, hit, spent, message):
    with pytest.raises(ValueError, match=message):
        make_curve(steps, (0.5, 0.6), costs, hit, spent)


def test_orders_are_500_unless_told_otherwise():
    assert replay(sequential, shuffled(noisy(3))).orders == 500


def test_bad_orders():
    with pytest.raises(ValueError, match="3 out of 2"):
        shuffled([trial([0, 1])] * 2, limit=3)
    with pytest.raises(ValueError, match="needs an order"):
        replay(sequential, [])


def test_optuna_is_imported_only_to_prune():
    code = ("import sys, bench_apts.stats.tuning_replay; print('optuna' in sys.modules, "
            "'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
