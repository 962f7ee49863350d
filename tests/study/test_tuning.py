"""Draws of hyperparameters: from the backend's own space, the same for every study size."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_apts.contract import Backend, Choice, Hyperparameter, LogUniform, Uniform
from bench_apts.core.errors import UserError
from bench_apts.study.search_space import draw_configurations

BACKEND = Backend(
    name="mine", summary="", build=lambda *args: None,
    hyperparameters={
        "lr": Hyperparameter(0.1, "", LogUniform(1e-4, 1.0)),
        "share": Hyperparameter(0.5, "", Uniform(-1.0, 1.0)),
        "norm": Hyperparameter("l2", "", Choice(("l2", "linf"))),
        "steps": Hyperparameter(5, ""),
    })


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**63 - 1), st.integers(1, 6))
def test_draws_are_whole_configurations_within_bounds(seed, count):
    drawn = draw_configurations(BACKEND, {}, count, seed)
    assert len(drawn) == count
    for values in drawn:
        assert set(values) == {"lr", "share", "norm", "steps"}
        assert 1e-4 <= values["lr"] <= 1.0
        assert -1.0 <= values["share"] <= 1.0
        assert values["norm"] in ("l2", "linf")
        assert values["steps"] == 5


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**63 - 1))
def test_a_larger_study_begins_with_the_draws_of_a_smaller_one(seed):
    assert draw_configurations(BACKEND, {}, 5, seed)[:3] == draw_configurations(
        BACKEND, {}, 3, seed
    )


def test_other_seeds_give_other_draws():
    assert draw_configurations(BACKEND, {}, 2, 1) != draw_configurations(BACKEND, {}, 2, 2)


def test_pinned_values_are_kept_and_not_searched():
    drawn = draw_configurations(BACKEND, {"lr": 0.3, "steps": 9}, 8, 0)
    assert {(v["lr"], v["steps"]) for v in drawn} == {(0.3, 9)}
    assert len({v["share"] for v in drawn}) == 8
    with pytest.raises(UserError, match="expected float"):
        draw_configurations(BACKEND, {"lr": "fast"}, 1, 0)


def test_nothing_to_search_gives_one_configuration():
    pinned = {"lr": 0.3, "share": 0.0, "norm": "linf"}
    assert draw_configurations(BACKEND, pinned, 8, 0) == [{**pinned, "steps": 5}]


LIST = replace(BACKEND, ordered=({"lr": 0.5, "steps": 1}, {"lr": 0.25}, {"lr": 0.5, "steps": 1}))


def test_ordered_configurations_are_tried_in_their_order_and_no_others():
    whole = [{"lr": 0.5, "share": 0.5, "norm": "l2", "steps": 1},
             {"lr": 0.25, "share": 0.5, "norm": "l2", "steps": 5},
             {"lr": 0.5, "share": 0.5, "norm": "l2", "steps": 1}]
    for seed in (0, 1):
        assert draw_configurations(LIST, {}, 2, seed) == whole[:2]
        assert draw_configurations(LIST, {}, 8, seed) == whole


def test_what_the_user_pins_overrides_the_ordered_configurations():
    assert [(v["lr"], v["steps"]) for v in draw_configurations(LIST, {"lr": 0.1}, 8, 0)] == [
        (0.1, 1), (0.1, 5), (0.1, 1)]
    pinned = {"lr": 0.1, "steps": 2}
    assert draw_configurations(LIST, pinned, 8, 0) == [BACKEND.configure(pinned)]


def test_draws_are_spread_as_declared():
    drawn = draw_configurations(BACKEND, {}, 400, 0)
    for values in ([math.log10(v["lr"]) / -4 for v in drawn],
                   [(v["share"] + 1) / 2 for v in drawn]):
        quarters = [sum(i / 4 <= v < (i + 1) / 4 for v in values) for i in range(4)]
        assert min(quarters) > 60  # 100 expected, with a deviation of 9
    assert 140 < sum(v["norm"] == "l2" for v in drawn) < 260


def test_every_sampler_stays_within_the_space():
    for sampler in ("random", "halton", "grid"):
        drawn = draw_configurations(BACKEND, {}, 8, 5, sampler)
        assert draw_configurations(BACKEND, {}, 8, 5, sampler) == drawn
        assert all(1e-4 <= v["lr"] <= 1 and -1 <= v["share"] <= 1 for v in drawn)
        assert {v["norm"] for v in drawn} == {"l2", "linf"}
    assert draw_configurations(BACKEND, {}, 8, 5, "halton")[:3] == draw_configurations(
        BACKEND, {}, 3, 5, "halton"
    )


def test_a_grid_covers_its_ranges_evenly():
    drawn = draw_configurations(BACKEND, {"norm": "l2", "share": 0.0}, 4, 0, "grid")
    # Four equal parts of the logarithm, each tried in its middle.
    assert sorted(v["lr"] for v in drawn) == pytest.approx(
        [10**-3.5, 10**-2.5, 10**-1.5, 10**-0.5])
    both = draw_configurations(BACKEND, {"norm": "l2"}, 11, 0, "grid")
    assert len(both) == 9  # three by three
    assert {round(v["share"], 6) for v in both} == {-0.666667, 0.0, 0.666667}
    assert len(draw_configurations(BACKEND, {}, 1, 0, "grid")) == 1


WHOLE = replace(BACKEND, hyperparameters={
    "steps": Hyperparameter(4, "", Uniform(1, 4)),
    "length": Hyperparameter(16, "", LogUniform(1, 256)),
    "lr": Hyperparameter(0.1, "", LogUniform(1e-4, 1.0))})


@pytest.mark.parametrize("sampler", ["random", "halton", "grid"])
def test_a_knob_whose_default_is_an_integer_gets_integers(sampler):
    drawn = draw_configurations(WHOLE, {}, 64, 3, sampler)
    for name, low, high in (("steps", 1, 4), ("length", 1, 256)):
        assert {type(values[name]) for values in drawn} == {int}
        assert all(low <= values[name] <= high for values in drawn)
    assert {type(values["lr"]) for values in drawn} == {float}
    assert {values["steps"] for values in drawn} >= {1, 2, 3}
    assert draw_configurations(WHOLE, {}, 64, 3, sampler) == drawn


def test_integers_are_spread_as_declared_up_to_both_bounds():
    drawn = draw_configurations(WHOLE, {}, 400, 0)
    counts = [sum(values["steps"] == k for values in drawn) for k in (1, 2, 3, 4)]
    assert min(counts) > 60  # 100 expected, with a deviation of 9
    below = sum(values["length"] <= 16 for values in drawn)
    assert 150 < below < 270  # half, and the one that rounding gives the 1


def test_a_grid_tries_each_integer_once():
    drawn = draw_configurations(WHOLE, {"length": 2, "lr": 0.1}, 9, 0, "grid")
    assert sorted(values["steps"] for values in drawn) == [1, 2, 3, 4]


def test_the_wide_space_has_its_own_ranges():
    wide = replace(BACKEND, hyperparameters={
        **BACKEND.hyperparameters,
        "lr": Hyperparameter(0.1, "", LogUniform(1e-4, 1.0), wide=LogUniform(10.0, 100.0)),
        "steps": Hyperparameter(5.0, "", wide=Uniform(1.0, 2.0))})
    assert all(10 <= v["lr"] <= 100 and 1 <= v["steps"] <= 2
               for v in draw_configurations(wide, {}, 4, 0, space="wide"))
    assert all(v["lr"] <= 1 and v["steps"] == 5 for v in draw_configurations(wide, {}, 4, 0))
