"""The expected cost of a search in narrower ranges, replayed from recorded trials, by hand."""

import pytest
from report_fixture import Folder

from bench_apts.core.spec import Searched
from bench_apts.reports.tuning_bill import narrow_searches, width_figure, width_sentence
from bench_apts.reports.tuning_pools import CostView, read_pools
from bench_apts.reports.tuning_scene import TuningScene, untuned_reference

# Learning rates 0.01 · 2^k, k = 0 … 7: the best is in the middle, the ends are in vain.
DRAWS = (-20, -20, 3, 2, 3, -20, -20, -20)
SEARCHED = Searched("random", "none", "narrow", 1, {"lr": (0.01, 1.28), "momentum": (0.5, 0.99)})


def study(path, free, searched=SEARCHED):
    folder = Folder(path, trials=8).add("adam", "tune", DRAWS, searched=searched)
    return folder.add("apts", "report", free)


def scene(folder):
    (context,) = folder.contexts()
    view = CostView("core_seconds", 1.0, "cpu")
    return TuningScene(context, view, 1, tuple(read_pools(context.groups, view)))


def test_the_cost_falls_as_the_range_narrows(tmp_path):
    folder = study(tmp_path / "study", (10,) * 8)
    rows = [record for _, tables in folder.bill().tables for table in tables
            if table.name == "bill-width" for record in table.records()]
    # Around 0.08, within a factor of 10 all but none; within 3: 0.04, 0.08 and 0.16.
    assert [(row["factor"], row["trials"], row["hits"], row["ert_core_seconds"])
            for row in rows] == [
        (None, 8, 3, pytest.approx(108 / 3)), (10, 7, 3, pytest.approx(88 / 3)),
        (3, 3, 3, pytest.approx(8 / 3))]
    assert {row["hyperparameter"] for row in rows} == {"lr"}
    assert (rows[2]["range_low"], rows[2]["range_high"]) == pytest.approx((0.08 / 3, 0.24))
    drawn = scene(folder)
    figure = width_figure(drawn)
    assert figure.slug == "digits-n1-width"
    assert figure.caption.startswith(
        "apts costs less unless you already know the lr of adam within a factor of 3 (3 trials); "
        "but so few trials do not tell the two apart.")
    *narrowed, level = figure.data.records()
    assert [row["factor"] for row in narrowed] == [None, 10, 3]
    assert (level["optimizer"], level["hyperparameter"]) == ("apts", None)


def test_what_is_certain_is_said_without_a_but(tmp_path):
    folder = study(tmp_path / "study", (5,) * 20)
    # Eight searches like that one: 64 trials, of which 24 are within a factor of 3.
    for again in range(1, 8):
        for place, length in enumerate(DRAWS):
            folder.add("adam", "tune", (length,), like=place, first=8 * again + place,
                       searched=SEARCHED)
    drawn = scene(folder)
    assert width_sentence(
        narrow_searches(drawn.searches), untuned_reference(drawn.pools), drawn.view
    ) == ("apts pays unless you already know the lr of adam within a factor of 3 (24 trials).")


@pytest.mark.parametrize(("free", "said"), [
    (2, "In none of these ranges of lr does adam cost less than apts."),
    (60, "Searched over all of lr, adam costs no more than apts.")])
def test_what_no_width_changes_is_said(tmp_path, free, said):
    drawn = scene(study(tmp_path / "study", (free,) * 8))
    assert (
        width_sentence(narrow_searches(drawn.searches), untuned_reference(drawn.pools), drawn.view)
        == said
    )


def test_dependent_draws_and_lists_are_not_restricted(tmp_path):
    for name, searched in (("tpe", Searched("tpe", "none", "narrow", 1, SEARCHED.ranges)),
                           ("list", Searched("random", "none", "narrow", 1))):
        drawn = scene(study(tmp_path / name, (10,) * 8, searched))
        assert narrow_searches(drawn.searches) == []
        assert width_figure(drawn) is None
