"""Two frozen configurations: costs are those of the fastest, accuracies those of the best."""

import pytest
from report_fixture import HIT, Folder

from bench_apts.reports.caveats import all_caveats
from bench_apts.reports.gather import gather
from bench_apts.reports.sections import main_table


def course(hit, final):
    """Accuracies of a training of 20 seconds, the whole budget, that hits at one of them."""
    return [0.5] * hit + [HIT] * (20 - hit) + [final]


@pytest.fixture
def study(tmp_path):
    """adam's first draw hits after 2 s and ends at 95 %, its second after 5 s and ends at 98 %."""
    folder = Folder(tmp_path / "study", labels=("adam",))
    folder.add("adam", "tune", (20,), values=course(2, 0.95), status="hit")
    folder.add("adam", "tune", (20,), first=1, values=course(5, 0.98), status="hit")
    return folder.add("adam", "report", (20, 20), like=0, values=course(3, 0.951), status="hit",
                      test=0.94)


def rerun(folder):
    return folder.add("adam", "report", (20, 20), like=1, values=course(7, 0.979), status="hit",
                      test=0.97)


def cell(folder):
    (group,) = gather(folder.path).groups
    return group.cells[0]


def rows(folder):
    return main_table.frozen_table(gather(folder.path).groups).records()


def test_costs_of_the_one_and_accuracies_of_the_other(study):
    found = cell(rerun(study))
    assert (found.frozen.trial.repetition, found.best.trial.repetition) == (0, 1)
    assert found.two_configurations
    assert [o.cost["core_seconds"] for o in found.finals] == [3, 3]
    assert found.to_target("core_seconds").median == 3
    assert found.test == [0.97, 0.97]
    assert len(found.seeds) == len(found.best_seeds) == 2
    assert gather(study.path).left_out == {}


def test_both_are_named_with_how_they_fared(study):
    fastest, best = rows(rerun(study))
    assert (fastest["role"], best["role"]) == ("fastest to the target", "best at the end")
    assert (fastest["validation_mean"], best["validation_mean"]) == pytest.approx((0.951, 0.979))
    assert (fastest["test_mean"], best["test_mean"]) == pytest.approx((0.94, 0.97))
    (context,) = study.contexts()
    tables = [block.table for block in main_table.part(context).every_block]
    assert [table.name for table in tables] == ["main", "frozen", "expected-cost"]
    assert tables[0].records()[0]["test_mean"] == pytest.approx(0.97)
    badges = [row[0].badge for row in
              main_table.tuning_trials_table(gather(study.path).groups, "cpu").rows]
    assert badges == ["frozen: fastest", "frozen: best"]


def test_an_old_study_says_that_the_best_was_not_rerun(study):
    found = cell(study)
    assert found.two_configurations
    assert found.test == [0.94, 0.94]
    _, best = rows(study)
    assert (best["seeds"], best["validation_mean"]) == (0, None)
    (context,) = study.contexts()
    assert "best not rerun" in main_table.part(context).blocks[0].table.rows[0][9].detail
    assert "Accuracies of the fastest configuration" in [
        each.title for each in all_caveats(gather(study.path))]


def test_one_configuration_that_is_both_has_one_row(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam",)).add("adam", "tune", (2, 3))
    folder.add("adam", "report", (2, 2), like=0, test=0.9)
    (only,) = rows(folder)
    assert only["role"] == "fastest to the target and best at the end"
    assert not cell(folder).two_configurations
    assert cell(folder).test == [0.9, 0.9]
