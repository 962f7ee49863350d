from __future__ import annotations

import math

import pytest

from bench_apts.stats.rankings import kendall_tau, stability

INF = math.inf


def test_by_hand():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [30, 20, 10]) == -1
    # Of three pairs one is reversed.
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    # Two that both miss tie: two pairs agree, of 3 and of 2 that are untied.
    assert kendall_tau([1, 2, 3], [1, INF, INF]) == pytest.approx(2 / math.sqrt(6))


def test_rankings_that_distinguish_nobody_have_no_tau():
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert kendall_tau([1, 2], [INF, INF]) is None
    assert kendall_tau([1], [2]) is None
    assert kendall_tau([], []) is None


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
