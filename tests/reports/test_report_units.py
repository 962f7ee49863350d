from __future__ import annotations

import math

import msgspec
import pytest
from report_fixture import SUITE

from bench_apts.core import units
from bench_apts.core.currencies import format_cost


@pytest.mark.parametrize(("form", "value", "shown"), [
    (units.format_seconds, 0, "0 s"), (units.format_seconds, 2.5e-5, "25.0 µs"),
    (units.format_seconds, 0.0123, "12.3 ms"), (units.format_seconds, 59.94, "59.9 s"),
    (units.format_seconds, 90, "1.50 min"), (units.format_seconds, 7200, "2.00 h"),
    (units.format_size, 0, "0 B"), (units.format_size, 999, "999 B"),
    (units.format_size, 26_280, "26.3 kB"),
    (units.format_size, 3.5e9, "3.50 GB"), (units.format_count, 437, "437"),
    (units.format_count, 9_999, "9,999"),
    (units.format_count, 28_000, "28.0 k"), (units.format_count, 2.5e6, "2.50 M"),
    (units.format_count, 3.25e15, "3.25 P"),
    (units.format_count, 12.5, "12.5"), (units.format_percent, 0.9615, "96.2 %"),
    (units.format_percent, math.nan, "–"), (units.format_seconds, math.inf, "∞"),
    (units.digits, 1234.5, "1,230"), (units.digits, 0.000123456, "0.000123"),
])
def test_numbers(form, value, shown):
    assert form(value).replace(units.THIN, " ") == shown


@pytest.mark.parametrize(("long", "short"), [
    ("2.00 min", "2 min"), ("28.0 k", "28 k"), ("100", "100"), ("0.50", "0.5"),
    ("1.05", "1.05"), ("1,200", "1,200"), ("94.0 %", "94 %"), ("0.100", "0.1"), ("0", "0"),
])
def test_exact_numbers_lose_their_zeros(long, short):
    assert units.trim(long) == short


def test_words():
    assert units.between(f"1{units.THIN}s", f"2{units.THIN}s") == f"1 to 2{units.THIN}s"
    assert units.between(f"1{units.THIN}s", f"2{units.THIN}min").startswith(f"1{units.THIN}s")
    assert units.listing(["a", "b", "c"]) == "a, b and c"
    assert units.plural(1, "trial") == "1 trial"
    assert units.format_goal(SUITE.target).replace(units.THIN, " ") == (
        "validation accuracy of at least 94 %")
    tokens = msgspec.structs.replace(
        SUITE.target, metric="nats_per_token", direction="min", value=1.25)
    assert units.format_goal(tokens) == "validation nats per token of at most 1.25"
    assert "GPU" in format_cost("core_seconds", 12, "cuda")
