"""An optimizer that shares another's search has costs of its own, and competes with nobody."""

import math

import pytest
from report_fixture import Folder

from bench_apts.core.spec import Searched
from bench_apts.reports import cost_tables
from bench_apts.reports.gather import gather
from bench_apts.reports.sections import decision_boxes
from bench_apts.reports.sections.cost_ratios import rank_optimizers
from bench_apts.reports.table import rank_by_cost, unstable_winner
from bench_apts.reports.tuning_pools import CostView

DRAWS = (8, 9, 10, 11, 12, -20, 8, 9, 10, 11)
SLOW = tuple(round(3.1 * seconds) for seconds in (12, 11, 13, 12, 11, 13, 12, 12, 11, 13))


def searched(follows=""):
    return Searched("random", "none", "narrow", 1, {"lr": (0.001, 1.0)}, follows)


@pytest.fixture
def study(tmp_path):
    """adam wins 3.1 times over apts; zero1 sends 1.5 times the bytes in 2.5 times the time."""
    folder = Folder(tmp_path / "study", ("adam", "apts", "zero1"), ranks=(2,))
    folder.add("adam", "tune", DRAWS, 2, sent=1_000.0, searched=searched())
    folder.add("adam", "report", (8, 9, 8), 2, like=0, sent=1_000.0)
    folder.add("apts", "report", SLOW, 2, sent=1_000.0)
    return folder


def followed(folder):
    folder.add("zero1", "tune", DRAWS[:1], 2, pace=2.5, sent=1_500.0, searched=searched("adam"))
    return folder.add("zero1", "report", (8, 9, 8), 2, like=0, pace=2.5, sent=1_500.0)


def cells(folder):
    (group,) = gather(folder.path).groups
    return group, {cell.label: cell for cell in group.cells}


def box(folder):
    return decision_boxes.part(folder.contexts()[0]).blocks[0].boxes[0]


def test_a_follower_does_not_take_the_victory_from_its_leader(study):
    alone = box(study)
    assert alone.verdict == "clear"
    both = box(followed(study))
    assert both.verdict == "clear"
    assert both.headline == alone.headline
    for before, after in zip(alone.answers, both.answers, strict=True):
        if after.numbers["question"] != "memory":
            # Who is told apart over a whole box also depends on the question of memory.
            assert after.numbers | {"verdict": ""} == before.numbers | {"verdict": ""}
    (said,) = [line for line in both.remarks if line.startswith("zero1 took over")]
    # 108 steps and 9 hits of adam, at 1.5 times the 1,000 bytes of a step.
    assert "18.0\u202fkB expected" in said


def test_its_bill_is_the_leaders_trials_at_its_own_cost_of_a_sample(study):
    _, found = cells(followed(study))
    adam, zero = found["adam"], found["zero1"]
    assert zero.search_owner == "adam"
    assert len(zero.tune) == len(DRAWS)
    for currency, factor in (("wire_bytes", 1.5), ("core_seconds", 2.5), ("train_s", 2.5),
                             ("samples", 1.0), ("gradient_evaluations", 1.0)):
        assert zero.ert(currency).cost == pytest.approx(factor * adam.ert(currency).cost)
        assert zero.tuning_bill[currency] == pytest.approx(factor * adam.tuning_bill[currency])
    assert [o.hit for o in zero.outcomes()] == [o.hit for o in adam.outcomes()]
    # Nobody finds a configuration and trains with it for less than one training.
    assert zero.ert("core_seconds").cost >= zero.to_target("core_seconds").median


def test_it_is_ranked_nowhere_by_cost(study):
    group, found = cells(followed(study))
    assert [cell.label for cell in rank_by_cost(group.cells, "samples")] == ["adam", "apts"]
    assert unstable_winner(group, "samples") == ""
    rivals = rank_optimizers(group, CostView("core_seconds", 1.0, "cpu")).rivals
    assert [rival.pool.cell.label for rival in rivals] == ["adam", "apts"]
    table = cost_tables.main_table([group], "cpu", {2: False})
    best = [row[0].text for row in table.rows if row[2].kind == "number best"]
    assert best == ["adam"]
    assert "zero1 took over what adam's search found" in table.caption
    assert math.isfinite(found["zero1"].ert("core_seconds").cost)


def test_bytes_that_it_did_not_count_are_unknown(study):
    study.add("zero1", "tune", DRAWS[:1], 2, searched=searched("adam"), flops=None)
    _, found = cells(study)
    assert math.isnan(found["zero1"].outcomes()[0].spent["flops"])
    assert math.isinf(found["zero1"].outcomes()[5].cost["flops"])
    assert "not counted" in cost_tables.expected(found["zero1"], "flops", "cpu").text
