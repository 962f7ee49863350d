"""Differences of means and shares of hits, against numbers by hand."""

import pytest

from bench_apts.stats.comparison import least_p
from bench_apts.stats.contrast import difference, success_p


def test_least_p_is_what_exchanging_labels_could_show():
    assert least_p(5, 5, paired=True) == 2.0**-4
    assert least_p(3, 3, paired=False) == 2 / 20
    assert least_p(1, 9, paired=False) == 1


def test_fisher():
    # The lady tasting tea: 3 of 4 against 1 of 4 has both tails of (1 + 16)/70.
    assert success_p((3, 4), (1, 4)) == pytest.approx(34 / 70)
    assert success_p((10, 10), (10, 10)) == 1


def test_pairs_that_all_differ_alike_are_as_sure_as_can_be():
    assert difference([2.0] * 10, [1.5] * 10, paired=True) == (0.5, (0.5, 0.5), 2.0**-9)
    # The luck of a seed cancels in pairs, and only there.
    first, second = [1.0, 20.0, 3.0, 40.0, 5.0], [2.0, 21.0, 4.0, 41.0, 6.0]
    assert difference(first, second, paired=True).interval == (-1, -1)
    apart = difference(first, second, paired=False).interval
    assert apart.low < -1 < 0 < apart.high


def test_no_difference_and_too_few_values():
    mixed = difference([1.0, 5.0, 3.0, 4.0], [2.0, 4.0, 4.0, 3.0], paired=True)
    assert mixed.interval.low < mixed.value == 0 < mixed.interval.high
    assert mixed.p == 1
    assert difference([1.0], [2.0], paired=True) == (-1.0, None, 1.0)
    with pytest.raises(ValueError, match="3 and 2 values"):
        difference([1, 2, 3], [1, 2], paired=True)
