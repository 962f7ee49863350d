"""The rule's arithmetic: worked out by hand, and its properties for any values."""

import math
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench_apts.study import target_calibration

DIRECTIONS = st.sampled_from(["max", "min"])
VALUES = st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=7)


@pytest.mark.parametrize(("values", "direction", "median", "std", "step", "target"), [
    # deviations -2, -1, 0, 1, 2 points: variance 10/4, std 1.58 points, a step of 1 point,
    # and 0.95 - 0.0158 = 0.9342 goes down
    ([0.93, 0.94, 0.95, 0.96, 0.97], "max", 0.95, math.sqrt(2.5) / 100, 0.01, 0.93),
    # the same as a loss goes up: 0.95 + 0.0158 = 0.9658
    ([0.93, 0.94, 0.95, 0.96, 0.97], "min", 0.95, math.sqrt(2.5) / 100, 0.01, 0.97),
    # std 0.0071: a step of 0.005; 2.31 + 0.0071 = 2.3171
    ([2.305, 2.315], "min", 2.31, math.sqrt(2) * 0.005, 0.005, 2.32),
    # deviations 1e-7 of both: std 1.41e-7, step 1e-7; 4e-7 + 1.41e-7 = 5.41e-7
    ([3e-7, 5e-7], "min", 4e-7, math.sqrt(2) * 1e-7, 1e-7, 6e-7),
    # deviations of 300: std 424, a step of 200; 5,000 + 424 = 5,424
    ([4_700.0, 5_300.0], "min", 5_000.0, math.sqrt(2) * 300, 200.0, 5_600.0),
    # no deviation: a thousandth of 0.9375 is 0.00094, a step of 0.0005
    ([0.9375] * 5, "max", 0.9375, 0.0, 0.0005, 0.9375),
    ([0.9376] * 5, "max", 0.9376, 0.0, 0.0005, 0.9375),
    ([0.9376] * 5, "min", 0.9376, 0.0, 0.0005, 0.938),
])
def test_answers_worked_out_by_hand(values, direction, median, std, step, target):
    found = target_calibration.target_bound(values, direction)
    assert found.median == pytest.approx(median)
    assert found.std == pytest.approx(std)
    assert found.step == step
    assert found.value == target


@given(VALUES, DIRECTIONS)
def test_a_target_is_never_harder_and_never_a_step_easier_than_the_rule_says(values, direction):
    found = target_calibration.target_bound(values, direction)
    sign = 1 if direction == "max" else -1
    exact = found.median - sign * found.std
    assert sign * found.value <= sign * exact
    assert abs(found.value - exact) <= found.step * (1 + 1e-9)


@given(VALUES, DIRECTIONS)
def test_rounding_a_rounded_value_again_changes_nothing(values, direction):
    found = target_calibration.target_bound(values, direction)
    assert (
        target_calibration.round_towards_easier(found.value, Decimal(str(found.step)), direction)
        == found.value
    )


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_step_is_within_a_factor_of_its_size(median, std):
    size, step = max(std, median / 1000), float(target_calibration.rounding_step(median, std))
    assert step <= size * (1 + 1e-12) < 2.5 * step * (1 + 1e-9)
    digit = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(digit - one) for one in (1, 2, 5)) < 1e-9


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6), st.integers(-6, 6), DIRECTIONS)
def test_a_unit_a_power_of_ten_larger_gives_the_same_target_in_it(values, power, direction):
    found = target_calibration.target_bound(values, direction)
    scaled = target_calibration.target_bound(
        [float(Decimal(repr(v)).scaleb(power)) for v in values], direction
    )
    # sums in floats may fall on the other side of a multiple
    assume(abs(math.remainder(found.median - found.std, found.step)) > 1e-6 * found.step)
    assume(abs(math.remainder(found.median + found.std, found.step)) > 1e-6 * found.step)
    assume(math.isclose(scaled.step, found.step * 10.0**power, rel_tol=1e-9))
    assert scaled.value == pytest.approx(found.value * 10.0**power, rel=1e-9)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        target_calibration.round_towards_easier(math.inf, Decimal(1), "min")
