"""Differences of means and shares of hits, against numbers by hand."""

import pytest

from bench_apts.stats.pairwise_comparison import difference, success_p


def test_fisher():
    # The lady tasting tea: 3 of 4 against 1 of 4 has both tails of (1 + 16)/70.
    assert success_p((3, 4), (1, 4)) == pytest.approx(34 / 70)
    assert success_p((10, 10), (10, 10)) == 1


def test_pairs_that_all_differ_alike_are_as_sure_as_can_be():
    assert difference([2.0] * 10, [1.5] * 10, paired=True) == (0.5, (0.5, 0.5), 2.0**-9, 2.0**-9)
    # The luck of a seed cancels in pairs, and only there.
    first, second = [1.0, 20.0, 3.0, 40.0, 5.0], [2.0, 21.0, 4.0, 41.0, 6.0]
    assert difference(first, second, paired=True).interval == (-1, -1)
    apart = difference(first, second, paired=False).interval
    assert apart.low < -1 < 0 < apart.high


def test_no_difference_and_too_few_values():
    mixed = difference([1.0, 5.0, 3.0, 4.0], [2.0, 4.0, 4.0, 3.0], paired=True)
    assert mixed.interval.low < mixed.value == 0 < mixed.interval.high
    assert mixed.p == 1
    assert difference([1.0], [2.0], paired=True) == (-1.0, None, 1.0, 1.0)
    with pytest.raises(ValueError, match="3 and 2 values"):
        difference([1, 2, 3], [1, 2], paired=True)


def test_students_interval_by_hand():
    # Differences of 1, 2 and 3: mean 2, standard error 1/√3, and t(0.975, 2) = 4.3027.
    found = difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], paired=True)
    half = 4.3027 / 3**0.5
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-4)
    assert found.p == found.least == 0.25
