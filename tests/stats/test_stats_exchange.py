"""P-values by exchanging labels, against all exchanges counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.verdict import least_p, permutation_p


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
