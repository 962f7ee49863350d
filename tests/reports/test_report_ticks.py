from __future__ import annotations

import itertools
import math
import re

import pytest

from bench_apts.core import units
from bench_apts.reports.axis_ticks import RoundTicks, log_ticks
from bench_apts.reports.canvas import plain
from bench_apts.reports.figure_style import LOOKS, looks


def labels(form, ticks):
    return [units.trim(form(tick)).replace(units.THIN, " ") for tick in ticks]


@pytest.mark.parametrize(("form", "low", "high", "shown"), [
    (units.format_seconds, 0.5, 40, ["500 ms", "1 s", "2 s", "5 s", "10 s", "20 s"]),
    # Not 100 s, which would read 1.67 min.
    (units.format_seconds, 5, 900, ["10 s", "30 s", "1 min", "3 min", "10 min"]),
    (units.format_seconds, 30, 40_000, ["1 min", "10 min", "1 h", "10 h"]),
    (units.format_seconds, 70, 110, ["1.2 min", "1.4 min", "1.6 min", "1.8 min"]),
    (units.format_size, 5, 900, ["10 B", "30 B", "100 B", "300 B"]),
    (units.format_count, 30, 400_000, ["100", "1,000", "10 k", "100 k"]),
])
def test_ticks_of_a_logarithmic_axis(form, low, high, shown):
    assert labels(form, log_ticks(low, high, 5, form)) == shown


@pytest.mark.parametrize("low", [1e-4, 0.03, 2.0, 40.0, 700.0, 9_000.0])
@pytest.mark.parametrize("ratio", [1.1, 2.0, 30.0, 4e3, 1e6])
def test_ticks_lie_inside_apart_and_read_well(low, ratio):
    for form in (units.format_seconds, units.format_size, units.format_count):
        found = log_ticks(low, low * ratio, 5, form)
        assert found == sorted(found)
        assert all(low <= tick <= low * ratio * (1 + 1e-12) for tick in found)
        assert len(found) <= 8
        assert all(len(re.sub(r"[^\d]", "", label).strip("0")) <= 4
                   for label in labels(form, found))
        if ratio >= 30:
            assert len(found) >= 2
            assert min(math.log10(b / a) for a, b in itertools.pairwise(found)) >= 0.1


@pytest.mark.parametrize(("form", "high", "shown"), [
    (units.format_seconds, 40, ["0 s", "10 s", "20 s", "30 s", "40 s"]),
    (units.format_seconds, 200, ["0 s", "1 min", "2 min", "3 min", "4 min"]),
    (units.format_seconds, 7_300, ["0 s", "30 min", "1 h", "1.5 h", "2 h", "2.5 h"]),
    (units.format_count, 200, ["0", "50", "100", "150", "200"]),
])
def test_ticks_of_a_linear_axis(form, high, shown):
    assert labels(form, RoundTicks(5, form).tick_values(0, high)) == shown


def test_no_two_of_144_optimizers_look_the_same():
    given = looks([str(index) for index in range(144)])
    assert len({look[1:] for look in given.values()}) == 144
    assert len({(look.marker, look.dashes) for look in LOOKS}) == 12
    assert len({look.marker for look in LOOKS}) == 12
    assert len({look.color for look in LOOKS}) == 12


def _contrast(first, second):
    def luminance(color):
        parts = [int(color[at:at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055)**2.4
                            for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.slot)
def test_colours_stand_out_on_both_pages(look):
    assert _contrast(look.color, "#ffffff") >= 3
    assert _contrast(look.dark, "#1a2028") >= 3


def test_long_labels_stay_apart_and_within_their_width():
    names = [plain(f"optimizer_with_a_long_name_{number}_x", 20) for number in range(3)]
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {20}
    assert plain("adam", 20) == "adam"
