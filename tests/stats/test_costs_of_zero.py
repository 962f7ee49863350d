"""Hits before the first step: what costs nothing divides nothing, in any currency."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from stats_records import record

from bench_apts.core.currencies import CURRENCIES
from bench_apts.stats import network_model
from bench_apts.stats.amortisation import Trainings, break_even, tuned
from bench_apts.stats.expected_cost import (
    best_of,
    ert,
    restart_costs,
    restart_quantile,
    sequential_bill,
)
from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.learning_curves import curve
from bench_apts.stats.modelled_training import BatchScaling, project, recorded_work
from bench_apts.stats.network_model import Interconnect
from bench_apts.stats.pairwise_comparison import Bill, compare, first_ranks
from bench_apts.stats.trial_costs import outcome
from bench_apts.stats.world_sizes import MeasuredTraining, efficiency, transfer_regret

replace = msgspec.structs.replace
FEW = 50
"""Resamples: how many do not matter to a division by zero."""


@st.composite
def trials(draw):
    """Records of which some hit before the first step, and some measured nothing at all."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        values = draw(st.sampled_from([(0.95,) * 4, (0.1, 0.2, 0.95, 0.95), (0.1,) * 4, (0.95,),
                                       (0.1,)]))
        made = record(values, repetition=number)
        if draw(st.booleans()):
            made.evals = [replace(event, train_s=0.0, wall_s=0.0, cpu_s=0.0,
                                  all_ranks_cpu_s=0.0, backwards=0,
                                  forwards=0, comm={}, flops=0.0) for event in made.evals]
        found.append(made)
    return found


def usable(value):
    return not math.isnan(value) and value >= 0


@given(trials(), trials(), st.sampled_from(list(CURRENCIES)))
def test_no_statistic_divides_by_a_cost_of_zero(mine, theirs, currency):
    bills = []
    for side in (mine, theirs):
        drawn = [outcome(each) for each in side]
        bills.append(([o.spent[currency] for o in drawn], [o.cost[currency] for o in drawn]))
    for spent, cost in bills:
        assert usable(ert(spent, cost).cost)
        assert usable(sequential_bill(spent, cost))
        assert usable(best_of(cost, 1))
        assert usable(restart_quantile(spent, cost))
        assert all(map(usable, restart_costs(spent, cost, draws=FEW)))
        interval = ert_interval(spent, cost)
        assert interval is None or (usable(interval.low) and usable(interval.high))
    one, two = bills
    ratio = compare(Bill(*one), Bill(*two), paired=False)
    assert 0 < ratio.p <= 1
    shares = first_ranks({"a": Bill(*one), "b": Bill(*two)}, paired=False, resamples=FEW)
    assert sum(filter(math.isfinite, shares.values())) <= 1 + 1e-9
    bill = tuned(*one, one)
    assert usable(bill.at(10))
    found = break_even(bill, Trainings(*two))
    assert found.trainings >= 1
    assert 1 <= found.interval.low <= found.interval.high
    assert usable(bill.interval(10).low)
    assert usable(transfer_regret(0.0, 0.0))
    costs = ert(*one).cost, ert(*two).cost
    assert math.isinf(max(costs)) or usable(transfer_regret(*costs))


@given(trials())
def test_no_step_has_no_pace_and_no_model(side):
    for each in side:
        assert len(curve(each, "samples").costs) == len(each.evals)
        done = recorded_work(each, 0.01)
        if done is not None:
            network = Interconnect(next(iter(network_model.load_fabrics().values())))
            found = project(done, 8, BatchScaling.strong, network)
            assert found is not None
            assert usable(found.step_s)
        last = each.evals[-1]
        run = MeasuredTraining(2, last.train_s, last.samples)
        assert efficiency(run, MeasuredTraining(4, 1.0, 1.0)) is None or (
            last.train_s and last.samples
        )
