"""What A/A pairs say of a machine's times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.timing_noise import noise

times = st.floats(1e-6, 1e6)
pairs = st.lists(st.tuples(times, times), min_size=1, max_size=20)


def test_by_hand():
    found = noise([(1.0, 2.0), (4.0, 2.0), (1.0, 1.0)])
    assert found.mean == pytest.approx(1.0)
    assert found.factor == pytest.approx(2.0)
    assert found.pairs == 3


def test_nothing_is_known_without_a_pair():
    assert noise([]) is None


@given(pairs)
def test_it_matters_neither_which_is_the_twin_nor_the_unit(given_pairs):
    found = noise(given_pairs)
    turned = noise([(1000 * b, 1000 * a) for a, b in given_pairs])
    assert turned.factor == pytest.approx(found.factor)
    assert turned.mean == pytest.approx(1 / found.mean)
    assert found.factor >= max(found.mean, 1 / found.mean) * (1 - 1e-9) >= 1 - 1e-9
    assert math.isfinite(found.factor)


def test_the_noise_of_a_mean_falls_with_the_number_of_trials():
    found = noise([(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
    # Logarithms of 2, 1/2 and 1: no drift, a scatter of ln 2, and t(0.975, 2) = 4.3027.
    assert found.scatter == pytest.approx(math.log(2))
    assert found.of_mean(4) == pytest.approx(2 ** (4.3027 / 2), rel=1e-4)
    assert 1 < found.of_mean(400) < found.of_mean(40) < found.of_mean(4)
    # A drift is no luck: no number of trials averages it out.
    assert noise([(1.0, 1.2)] * 5).of_mean(10**6) == pytest.approx(1.2)
    # A single pair has no scatter of its own, but its distance.
    assert noise([(1.0, 1.2)]).of_mean(1) == pytest.approx(1.2)
