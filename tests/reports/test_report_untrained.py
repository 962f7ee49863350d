"""A target that the untrained model meets, and trials that spent nothing: pages and tables."""

import json
import shutil

import msgspec
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.currencies import CURRENCIES
from bench_apts.reports.compared_studies import compare_studies
from bench_apts.reports.gather import gather
from bench_apts.reports.tuning_bill import study_bill

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("untrained") / "study")


def met(event):
    """The target is met by every evaluation, the first included."""
    return replace(event, validation={**event.validation, "accuracy": 0.99})


def idle(event):
    """The target is met, and no clock moved, no byte was sent and no pass made."""
    return replace(met(event), train_s=0.0, wall_s=0.0, cpu_s=0.0, forwards=0, backwards=0,
                   comm={}, flops=None if event.flops is None else 0.0)


def spoilt(study, folder, change, wanted):
    """A copy with ``change`` applied to the evaluations of the trials that are ``wanted``."""
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("report*", "tables", "figures"))
    for record in store.read_trials(folder):
        if wanted(record.trial):
            path = folder / "trials" / f"{record.trial.run_id}.jsonl"
            path.unlink()
            curve = record.evals[:1] if change is unbegun else record.evals
            fixture.write(folder, record.trial, [change(event) for event in curve],
                          "miss" if change is unbegun else "hit",
                          test=0.98 if record.trial.stage == "report" else None)
    return folder


def unbegun(event):
    """The only evaluation is that before the first step: a miss that spent nothing."""
    return event


@pytest.mark.filterwarnings("error::UserWarning")  # of axes that zeros do not suit
@pytest.mark.parametrize(("change", "wanted"), [
    (met, lambda trial: True),
    pytest.param(met, lambda trial: trial.label == "apts", marks=pytest.mark.slow),
    pytest.param(met, lambda trial: trial.stage == "tune", marks=pytest.mark.slow),
    pytest.param(met, lambda trial: trial.repetition == 0, marks=pytest.mark.slow),
    pytest.param(idle, lambda trial: trial.label != "sgd", marks=pytest.mark.slow),
    (idle, lambda trial: True),
    (unbegun, lambda trial: trial.ranks == 1),
], ids=["all", "untuned", "tuning", "some seeds", "idle", "all idle", "unbegun"])
def test_the_page_and_its_tables_are_built(study, tmp_path, change, wanted):
    folder = spoilt(study, tmp_path / "study", change, wanted)
    check(study, folder, reached=change is not unbegun)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("wanted", [
    lambda trial: True,
    pytest.param(lambda trial: trial.ranks == 2, marks=pytest.mark.slow),
    pytest.param(lambda trial: trial.stage == "report" and trial.label == "sgd",
                 marks=pytest.mark.slow)], ids=["all", "N = 2", "sgd"])
def test_so_are_those_of_a_searched_study(searched, tmp_path, wanted):
    check(searched, spoilt(searched, tmp_path / "study", met, wanted), reached=True)


def check(study, folder, *, reached):
    """Builds everything from a spoilt copy of a study, alone and beside it."""
    assert reports.build(folder, ("html", "csv", "json", "md")).is_file()
    document = json.loads((folder / "report.json").read_bytes())
    said = [c["text"] for c in document["caveats"] if "untrained" in c["title"]]
    assert ["digits" in text for text in said] == [True] * reached
    gathered = gather(folder)
    for currency in CURRENCIES:
        assert study_bill(gathered, currency, replay=False).tables
    for pair in ((gather(study), gathered), (gathered, gather(study)), (gathered, gathered)):
        assert compare_studies(*pair, ("a", "b"), 1.0).rows


def test_a_target_that_training_meets_has_no_such_caveat(study):
    reports.build(study, ("json",))
    document = json.loads((study / "report.json").read_bytes())
    assert not [c for c in document["caveats"] if "untrained" in c["title"]]
