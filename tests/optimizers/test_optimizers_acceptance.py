"""The radius rule and the acceptance ratio: pure functions of scalars on the device."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.optimizers.apts.acceptance import RadiusRule, acceptance_ratio

RATIOS = st.floats(allow_nan=False)
POSITIVE = st.floats(1e-6, 1e6)


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def updated(rule, radius, rho):
    return rule.update(scalar(radius), scalar(rho)).item()


def ratio(actual, predicted):
    return acceptance_ratio(scalar(actual), scalar(predicted)).item()


@st.composite
def rules(draw):
    smallest, largest = sorted((draw(POSITIVE), draw(POSITIVE)))
    accept, low, high = sorted(draw(st.floats(1e-3, 1.0)) for _ in range(3))
    return RadiusRule(accept, low, high, draw(st.floats(0.01, 0.99)), draw(st.floats(1.01, 100)),
                      smallest, largest)


@given(rules(), st.floats(0, 1), st.lists(RATIOS, max_size=20))
def test_the_radius_never_leaves_its_bounds(rule, share, ratios):
    radius = rule.smallest + share * (rule.largest - rule.smallest)
    for rho in ratios:
        radius = updated(rule, radius, rho)
        assert rule.smallest <= radius <= rule.largest


@given(rules(), POSITIVE, RATIOS, RATIOS)
def test_a_better_ratio_never_means_a_smaller_radius(rule, radius, one, other):
    worse, better = sorted((one, other))
    assert updated(rule, radius, worse) <= updated(rule, radius, better)


@given(rules(), POSITIVE, RATIOS)
def test_a_rejected_step_never_lets_the_radius_grow(rule, radius, rho):
    inside = min(rule.largest, max(rule.smallest, radius))
    if rho < rule.accept:
        assert updated(rule, inside, rho) <= inside


@pytest.mark.parametrize(("radius", "rho", "expected"), [
    (1.0, -math.inf, 0.5),
    (1.0, 0.0, 0.5),
    (1.0, 0.2499, 0.5),  # accepted, yet poor: the radius shrinks
    (1.0, 0.25, 1.0),
    (1.0, 0.75, 1.0),
    (1.0, 0.7501, 2.0),
    (1.0, math.inf, 2.0),
    (3.0, 1.0, 4.0),
    (4.0, 1.0, 4.0),
    (1.5e-3, 0.0, 1e-3),
    (1e-3, -1.0, 1e-3),
])
def test_known_radii_of_the_papers_settings(radius, rho, expected):
    assert updated(RadiusRule(), radius, rho) == expected


@pytest.mark.parametrize("wrong", [
    {"accept": 0.0}, {"accept": -0.1}, {"accept": 0.5}, {"low": 0.8}, {"high": 0.2},
    {"shrink": 0.0}, {"shrink": 1.0}, {"grow": 1.0}, {"smallest": 0.0}, {"smallest": -1.0},
    {"smallest": 5.0}, {"accept": math.nan}, {"smallest": math.nan},
])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="need 0 <"):
        RadiusRule(**wrong)


@pytest.mark.parametrize(("actual", "predicted", "expected"), [
    (1.0, 2.0, 0.5),
    (3.0, 2.0, 1.5),
    (-1.0, 2.0, -0.5),
    (0.0, 2.0, 0.0),
    (1.0, 0.0, -math.inf),
    (-1.0, -2.0, -math.inf),  # two rises are no success
    (1.0, -2.0, -math.inf),
    (1.0, math.nan, -math.inf),
    (math.nan, 1.0, -math.inf),
    (math.inf, 1.0, -math.inf),
    (-math.inf, 1.0, -math.inf),
    (math.nan, math.nan, -math.inf),
])
def test_known_acceptance_ratios(actual, predicted, expected):
    assert ratio(actual, predicted) == expected


@given(st.floats(), st.floats())
def test_the_ratio_is_always_a_number_and_only_a_true_decrease_is_accepted(actual, predicted):
    rho = ratio(actual, predicted)
    assert not math.isnan(rho)
    if rho >= RadiusRule().accept:
        assert math.isfinite(actual)
        assert actual > 0
        assert predicted > 0
