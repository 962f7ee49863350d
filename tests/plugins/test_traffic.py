"""Formulas of the bytes that the built-in optimizers send, in bytes worked out by hand."""

from dataclasses import replace

import pytest

from bench_apts.core.errors import UserError
from bench_apts.plugins import registry

N = 6_570
P = 4 * N


def formula(name):
    found = registry.optimizer(name).backend.traffic
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "ranks", "expected"), [
    *((name, 2, {"all_reduce": P}) for name in (
        "sgd", "adam", "adam-default", "sgd-batch", "adam-batch", "nadamw", "nadamw-list",
        "schedule-free", "prodigy", "local-sgd",
        "post-local-sgd", "diloco", "des-loc", "snoo")),
    ("streaming-diloco", 4, {"all_reduce": 1.5 * N}),
    ("adam", 4, {"all_reduce": 1.5 * P}),
    ("muloco", 2, {"all_reduce": P}),
    ("ddp-fp16", 2, {"all_reduce": P / 2}),
    ("zero-redundancy", 2, {"all_reduce": P, "broadcast": P / 2}),
    ("fsdp2", 2, {"all_gather": P / 2, "reduce_scatter": P / 2}),
    # 6,570 numbers in 2 chunks of 3,296 bytes, each with 13 steps of 4 bytes; half stays here.
    ("ddp-quantized", 2, {"all_to_all": 3_348, "all_gather": 3_348}),
    # Chunks of 1,648 bytes with as many steps, and a float of each rank.
    *((name, 2, {"all_to_all": 1_700, "all_gather": 1_704}) for name in ("apts", "local-adam")),
    # 6,570 parameters are padded to 6,572 = 4 · 1,643 and to 6,576 = 8 · 822.
    ("zero1", 2, {"all_reduce": P + 4, "all_gather": 4 * 6_572 / 2}),
    ("zero2", 4, {"all_reduce": 1.5 * (P + 4), "all_gather": 0.75 * 4 * 6_576}),
    ("zero3", 2, {"all_reduce": 8, "all_gather": P / 2, "reduce_scatter": P / 2}),
    ("tr", 2, {"all_reduce": P + 8}),
    ("apts-paper", 2, {"all_reduce": 3 * P + 16}),
    ("napts", 2, {"all_reduce": 3 * P + 16}),
])
def test_bytes_by_hand(name, ranks, expected):
    assert formula(name).ideal(N, ranks) == expected


@pytest.mark.parametrize("name", ["adam", "zero2", "zero3", "apts", "tr", "apts-paper"])
def test_one_rank_sends_nothing(name):
    assert not any(formula(name).ideal(N, 1).values())


@pytest.mark.parametrize(("name", "multiple"), [
    ("sgd", 2), ("zero1", 3), ("zero3", 2), ("apts-paper", 6)])
def test_large_models_send_the_multiple_that_the_words_say(name, multiple):
    n, ranks = 10**9, 8
    sent = sum(formula(name).ideal(n, ranks).values())
    assert sent == pytest.approx(multiple * 7 / 8 * 4 * n, rel=1e-6)
    assert f"{multiple}" in formula(name).words


def test_the_first_rounds_count_in_the_mean_of_a_training():
    apts = formula("apts")
    assert apts.ideal(N, 2, 16) == {"all_to_all": 3_348, "all_gather": 3_352}
    assert apts.ideal(N, 2, 4) == apts.ideal(N, 2, 16)
    assert apts.ideal(N, 2, 64) == {"all_to_all": (3_348 + 3 * 1_700) / 4,
                                    "all_gather": (3_352 + 3 * 1_704) / 4}


def test_a_formula_is_known_only_where_it_holds():
    diloco = registry.optimizer("diloco").backend
    assert diloco.formula(diloco.configure({"bits": 4})) is None
    assert diloco.formula(diloco.configure({"period": 8})) is diloco.traffic
    assert diloco.formula({"period": 8}) is None  # of a version that had no bits
    with pytest.raises(UserError, match="no-such"):
        replace(diloco, traffic=replace(diloco.traffic, where={"no-such": 1}))
