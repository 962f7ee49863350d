"""Formulas of known methods, in bytes worked out by hand."""

import pytest

from bench_apts.stats import traffic_formulas as known

N = 6_570
P = 4 * N


@pytest.mark.parametrize(("formula", "ranks", "expected"), [
    (known.GRADIENT_SUM, 2, {"all_reduce": P}),
    (known.GRADIENT_SUM, 4, {"all_reduce": 1.5 * P}),
    # 6,570 parameters are padded to 6,572 = 4 · 1,643 and to 6,576 = 8 · 822.
    (known.ZERO_1_2, 2, {"all_reduce": P + 4, "all_gather": 4 * 6_572 / 2}),
    (known.ZERO_1_2, 4, {"all_reduce": 1.5 * (P + 4), "all_gather": 0.75 * 4 * 6_576}),
    (known.ZERO_3, 2, {"all_reduce": 8, "all_gather": P / 2, "reduce_scatter": P / 2}),
    (known.LOCAL_STEPS, 2, {"all_reduce": P}),
    (known.TRUST_REGION, 2, {"all_reduce": P + 8}),
    (known.DECOMPOSED, 2, {"all_reduce": 3 * P + 16}),
])
def test_bytes_by_hand(formula, ranks, expected):
    assert formula.ideal(N, ranks) == expected


@pytest.mark.parametrize("formula", [
    known.GRADIENT_SUM, known.ZERO_1_2, known.ZERO_3, known.LOCAL_STEPS, known.TRUST_REGION,
    known.DECOMPOSED])
def test_one_rank_sends_nothing(formula):
    assert set(formula.ideal(N, 1).values()) == {0}


@pytest.mark.parametrize(("formula", "multiple"), [
    (known.GRADIENT_SUM, 2), (known.ZERO_1_2, 3), (known.ZERO_3, 2), (known.DECOMPOSED, 6)])
def test_large_models_send_the_multiple_that_the_words_say(formula, multiple):
    n, ranks = 10**9, 8
    sent = sum(formula.ideal(n, ranks).values())
    assert sent == pytest.approx(multiple * 7 / 8 * 4 * n, rel=1e-6)
