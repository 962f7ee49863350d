"""Bands over seeds and thinned curves."""

import numpy as np
import pytest

from bench_apts.stats.learning_curves import MOST_POINTS, band, thinned_points, thinning_stride


def test_few_seeds_span_the_band():
    found = band(np.array([[1.0, 5.0, 2.0, 9.0], [3.0, 3.0, 3.0, 3.0]]))
    assert found.low.tolist() == [1.0, 3.0]
    assert found.middle.tolist() == [3.5, 3.0]
    assert found.high.tolist() == [9.0, 3.0]


def test_from_five_seeds_on_the_band_spans_quartiles():
    found = band(np.array([[5.0, 1.0, 2.0, 4.0, 3.0]]))
    assert (found.low, found.middle, found.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("length", [
    1, 2, MOST_POINTS - 1, MOST_POINTS, MOST_POINTS + 1, 1_000, 7_777])
def test_thinned_curves_are_short_and_keep_hit_and_end(length):
    hits = np.zeros(length, bool)
    hits[length // 3] = True
    found = thinned_points(np.arange(length), hits, thinning_stride(length))
    assert found[0]
    assert found[-1]
    assert found[hits].all()
    assert found.sum() <= MOST_POINTS + 2
    assert found.all() == (length <= MOST_POINTS)


def test_curves_thinned_together_share_their_evaluations():
    step = thinning_stride(500)
    one, other = (set(np.arange(n)[thinned_points(np.arange(n), np.zeros(n, bool), step)].tolist())
                  for n in (500, 300))
    assert other - one == {299}
