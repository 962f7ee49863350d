from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.stats.rankings import kendall_tau, stability

INF = math.inf
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8)


def test_by_hand():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [30, 20, 10]) == -1
    # Of three pairs one is reversed.
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    # Two that both miss tie: two pairs agree, of 3 and of 2 that are untied.
    assert kendall_tau([1, 2, 3], [1, INF, INF]) == pytest.approx(2 / math.sqrt(6))


@given(pairs)
def test_agrees_with_scipy(ranks):
    first, second = [a for a, _ in ranks], [b for _, b in ranks]
    if len(set(first)) < 2 or len(set(second)) < 2:
        assert kendall_tau(first, second) is None
    else:
        expected = scipy.stats.kendalltau(first, second).statistic
        assert kendall_tau(first, second) == pytest.approx(expected)


@given(pairs, st.randoms(use_true_random=False))
def test_symmetry_and_order(ranks, random):
    first, second = [a for a, _ in ranks], [b for _, b in ranks]
    tau = kendall_tau(first, second)
    assert kendall_tau(second, first) == tau
    random.shuffle(ranks)
    assert kendall_tau([a for a, _ in ranks], [b for _, b in ranks]) == tau
    assert tau is None or -1 <= tau <= 1 + 1e-12


def test_levels():
    found = stability({0.95: {"a": 1, "b": 2, "c": 3}, 0.99: {"c": 9, "a": 4, "b": 3},
                       1.0: {"a": INF, "b": INF, "c": INF}})
    assert found.taus == {(0.95, 0.99): pytest.approx(1 / 3), (0.95, 1.0): None, (0.99, 1.0): None}
    assert found.winners == {0.95: {"a"}, 0.99: {"b"}, 1.0: frozenset()}
    assert found.winner_changes


def test_a_level_that_nobody_hits_changes_no_winner():
    assert not stability({0.95: {"a": 1, "b": 2}, 1.0: {"a": INF, "b": INF}}).winner_changes
    tied = stability({0.95: {"a": 1, "b": 1}, 1.0: {"a": 2, "b": 3}})
    assert tied.winners[0.95] == {"a", "b"}
    assert tied.winner_changes


def test_bad_arguments():
    with pytest.raises(ValueError, match="same optimizers"):
        stability({0.95: {"a": 1}, 1.0: {"b": 1}})
    with pytest.raises(ValueError, match="of 1 and 2"):
        kendall_tau([1], [1, 2])
    with pytest.raises(ValueError, match="unknown"):
        stability({0.95: {"a": 1, "b": math.nan}, 1.0: {"a": 1, "b": 1}})
