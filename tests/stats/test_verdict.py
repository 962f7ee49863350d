"""The one rule for "different": by hand, and its error rates in simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stats_simulation import SHAPES, evidence, rate

from bench_apts.stats.intervals import Interval
from bench_apts.stats.timing_noise import noise
from bench_apts.stats.verdict import Evidence, Rule, decide, holm, least_p, permutation_p, winners

CLEAR = Evidence(0.5, Interval(0.4, 0.6), 0.02)


def verdicts(*family, **changes):
    return [each.verdict for each in decide([each._replace(**changes) for each in family])]


def test_all_four_conditions_are_needed():
    assert verdicts(CLEAR) == ["less"]
    assert verdicts(CLEAR, effect=2.0, interval=Interval(1.5, 3)) == ["more"]
    assert verdicts(CLEAR, p=0.06) == ["not told apart"]
    assert verdicts(CLEAR, interval=Interval(0.4, 1.0)) == ["not told apart"]
    assert verdicts(CLEAR, noise=2.1) == ["not told apart"]
    # Certain, but of no use to anybody.
    assert verdicts(CLEAR, effect=0.998, interval=Interval(0.997, 0.999)) == ["not told apart"]
    # Differences have neither noise nor a least size.
    assert verdicts(CLEAR, effect=-0.001, interval=Interval(-0.002, -0.0001), neutral=0.0,
                    noise=9.0) == ["less"]


def test_a_family_is_corrected_and_too_few_trials_are_no_member():
    assert verdicts(CLEAR, CLEAR, CLEAR) == ["not told apart"] * 3
    blind = CLEAR._replace(p=0.25, least_p=0.25)
    assert verdicts(CLEAR, blind, blind) == ["less", "cannot be told", "cannot be told"]
    # Alone it might have been told, in a family of three it never could.
    assert verdicts(*[CLEAR._replace(p=0.04, least_p=0.02)] * 3) == ["cannot be told"] * 3
    assert decide([]) == []


def test_a_winner_is_ahead_of_every_rival():
    ahead = CLEAR._replace(effect=2.0, interval=Interval(1.5, 3))
    near = ahead._replace(p=0.4)
    assert winners([[ahead, ahead], [ahead, near], []]) == [True, False, False]
    # Two questions share 5 %; within a question every rival is one condition of one claim.
    assert winners([[ahead] * 9, [ahead] * 9]) == [True, True]
    assert winners([[ahead]] * 3) == [False] * 3
    # A question that could never be answered does not make the others stricter.
    assert winners([[ahead], [near._replace(least_p=0.2)]] * 2)[0]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"0 … 1"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(values):
    adjusted = holm(values)
    for value, other in zip(values, adjusted, strict=True):
        assert value <= other <= min(1.0, len(values) * value) or other == value
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def claims(shape, trials, rounds, *, factor=1.0, paired=True, other=None):
    """Whether two optimizers are told apart, of which the first costs ``factor`` times as much.

    A/A twins of each trial are part of the study, and their noise of the rule.
    """
    found = []
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        first = SHAPES[shape].bill(generator, trials, factor)
        second = (other or SHAPES[shape]).bill(generator, trials)
        pairs = noise(zip(second.spent, SHAPES[shape].bill(generator, trials).spent, strict=True))
        each = evidence(first, second, paired=paired)._replace(noise=pairs.of_mean(trials))
        found.append(decide([each])[0].differs)
    return rate(found)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("shape", ["10 %", "lognormal", "30 % fail"])
def test_equal_optimizers_are_seldom_told_apart(shape, paired):
    # 5 % and what 200 rounds scatter by.
    for trials in (3, 8):
        assert claims(shape, trials, 200, paired=paired) <= 0.085


def test_a_factor_of_1_2_is_told_at_twenty_with_twins():
    powers = [claims("10 %", trials, 100, factor=1.2) for trials in (3, 8, 20)]
    assert powers == sorted(powers)
    assert powers[0] == 0  # three pairs never tell
    assert powers[-1] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("trials", [3, 5, 8, 10, 20, 40])
def test_false_claims(shape, trials, paired):
    assert claims(shape, trials, 500, paired=paired) <= 0.05 + 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("tuned", "plain"), [(8, 3), (8, 5), (8, 8), (8, 20), (20, 3), (20, 20)])
@pytest.mark.parametrize("shape", ["10 %", "30 %", "lognormal", "30 % fail"])
def test_a_search_and_an_untuned_optimizer_of_equal_cost(shape, tuned, plain):
    found = []
    for seed in range(500):
        generator = np.random.default_rng(seed)
        each = evidence(SHAPES["search"].bill(generator, tuned),
                        SHAPES[shape].bill(generator, plain), paired=False)
        found.append(decide([each])[0].differs)
    assert rate(found) <= 0.05 + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["10 %", "lognormal", "30 % fail", "60 % fail"])
@pytest.mark.parametrize("trials", [3, 8, 20])
def test_six_equal_optimizers_in_a_box_and_in_a_ranking(shape, trials):
    boxes, stars = [], []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        bills = sorted((SHAPES[shape].bill(generator, trials) for _ in range(6)),
                       key=lambda bill: bill.value)
        boxes.append(winners([[evidence(bill, bills[0], paired=True) for bill in bills[1:]]])[0])
        base = bills[seed % 6]
        stars.append(any(each.differs for each in decide([
            evidence(bill, base, paired=True) for bill in bills if bill is not base])))
    assert rate(boxes) <= 0.05 + 0.025
    assert rate(stars) <= 0.05 + 0.025


def test_the_rule_is_named():
    assert Rule() == (0.05, 1.005)


def means(mine, theirs):
    return mine[0] / mine[1] - theirs[0] / theirs[1]


def p(first, second, *, paired):
    return permutation_p(
        [(x, 1.0) for x in first], [(x, 1.0) for x in second], means, paired=paired
    )


def test_least_p_is_what_exchanging_labels_could_show():
    assert least_p(5, 5, paired=True) == 2.0**-4
    assert least_p(3, 3, paired=False) == 2 / 20
    assert least_p(1, 9, paired=False) == 1


def test_pairs_by_hand():
    # Differences of 1, 2 and 3: of eight signs only all plus and all minus sum to 6.
    assert p([2, 4, 6], [1, 2, 3], paired=True) == 2 / 8
    # 1, 2 and −3 sum to 0, which is the least of all.
    assert p([2, 4, 0], [1, 2, 3], paired=True) == 1


def test_unpaired_by_hand():
    # Of the six ways to choose two of {1, 2, 3, 4} two are as far apart.
    assert p([1, 2], [3, 4], paired=False) == 2 / 6
    assert p([1, 4], [2, 3], paired=False) == 1


def test_many_trials_are_drawn_and_do_not_depend_on_the_call():
    first, second = list(range(30)), list(range(3, 33))
    assert p(first, second, paired=False) == p(first, second, paired=False)
    assert p(first, second, paired=True) < 0.001


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=6),
       st.booleans())
def test_it_does_not_matter_which_is_the_first(pairs, paired):
    one, two = ([pair[i] for pair in pairs] for i in (0, 1))
    there, back = p(one, two, paired=paired), p(two, one, paired=paired)
    assert there == back
    assert 0 < there <= 1


def test_pairs_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        p([1, 2], [1], paired=True)
