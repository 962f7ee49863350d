"""A wall clock that is set back disturbs no duration and no choice of what is current."""

from pathlib import Path

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.reports.gather import gather

# In every rank, in the middle of training: the clock shows 1970 from here on.
SET_BACK = ("self.steps == 10 and [setattr(time, 'time', lambda: 1.0), "
            "setattr(__import__('bench_apts.core.store').store, 'now', "
            "lambda: '1970-01-01T00:00:01+00:00')]")


@pytest.mark.slow
def test_a_failed_trial_is_tried_again_though_its_clock_was_ahead(cli, plugin, tmp_path):
    mended = tmp_path / "mended"
    arguments = ("run", "--gpus", "1", "--trials", "0", "--seeds", "1", "--no-twins", "--offline",
                 "--shared", "--set", "suite.budget.samples=1000", "--optimizers",
                 plugin(on_step=f"assert os.path.exists({str(mended)!r})"), "--out", tmp_path)
    done = cli(*arguments)
    assert "1 error" in done.out, done.err
    (record,) = store.read_trials(tmp_path / "digits")
    ahead = record.end.time.replace("20", "29", 1)
    path = Path(record.path)
    path.write_text(path.read_text().replace(record.end.time, ahead))
    mended.touch()
    done = cli(*arguments)
    assert done.code == 0, done.err
    (record,) = store.read_trials(tmp_path / "digits")
    assert (record.finished, record.attempts) == (True, 2)
    assert record.header.time < ahead


@pytest.mark.slow
def test_a_clock_set_back_during_a_trial(cli, plugin, tmp_path):
    arguments = ("run", "--gpus", "2", "--trials", "0", "--seeds", "1", "--no-twins", "--offline",
                 "--set", "suite.budget.samples=2000", "--set",
                 "suite.evaluation.every_samples=500", "--optimizers",
                 plugin(on_step=SET_BACK), "--out", tmp_path)
    done = cli(*arguments)
    assert done.code == 0, done.err
    (record,) = store.read_trials(tmp_path / "digits")
    assert record.end.time < "1971" < record.header.time
    assert record.evals[-1].step > 10
    times = [event.wall_s for event in record.evals] + [record.end.wall_s]
    assert times == sorted(times)
    assert sum(record.end.ledger.values()) == pytest.approx(record.end.wall_s, rel=0.01)
    checked = cli("check", tmp_path / "digits")
    assert checked.code == 0, checked.out
    again = cli(*arguments)
    assert again.code == 0, again.err
    assert "kept from an earlier run" in again.out


def rewritten(folder, **changes):
    path = folder / "study.json"
    write_json(path, msgspec.structs.replace(store.read_study(folder), **changes))


def seeds(folder, label):
    """Returns the report-stage records of a competitor that a report would be made of."""
    return [record for group in gather(folder).groups for cell in group.cells
            if cell.label == label for record in cell.seeds]


EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00"


@pytest.fixture
def folder(tmp_path):
    """A study of one competitor, whose old code has the later times: the clock was set back."""
    place = tmp_path / "digits"
    fixture.populate(place, fixture.study(ranks=(1,), trials=0, seeds=1))
    for path in place.glob("trials/*.jsonl"):
        path.unlink()
    for sha256, time in (("old", LATE), ("new", EARLY)):
        spec = fixture.trial("apts", 1, "report", plugin_sha256=sha256 * 20)
        fixture.write(place, spec, fixture.evals(
            spec, pace=1.0, step_s=0.01, backwards=1, every=1), "miss", time=time, test=0.5)
    return place


def test_the_last_commands_code_is_current_whatever_its_clock_said(folder):
    rewritten(folder, code={"apts": "new" * 20})
    assert [r.trial.plugin_sha256 for r in seeds(folder, "apts")] == ["new" * 20]
    assert gather(folder).left_out == {"older code of the optimizer": 1}
    rewritten(folder, code={"apts": "old" * 20})
    assert [r.trial.plugin_sha256 for r in seeds(folder, "apts")] == ["old" * 20]


def test_code_that_has_no_trial_yet_hides_none(folder):
    rewritten(folder, code={"apts": "newest" * 10})
    assert [r.trial.plugin_sha256 for r in seeds(folder, "apts")] == ["old" * 20]


def test_the_last_commands_data_is_current_whatever_its_clock_said(folder):
    for path in folder.glob("trials/*.jsonl"):
        path.unlink()
    for sha256, time in (("a" * 64, LATE), ("b" * 64, EARLY)):
        spec = fixture.trial("apts", 1, "report", data_sha256=sha256)
        fixture.write(folder, spec, fixture.evals(
            spec, pace=1.0, step_s=0.01, backwards=1, every=1), "miss", time=time, test=0.5)
    rewritten(folder, data={"digits": "b" * 64})
    assert [r.trial.data_sha256 for r in seeds(folder, "apts")] == ["b" * 64]


def test_the_last_commands_configuration_is_current_whatever_its_clock_said(folder):
    for path in folder.glob("trials/*.jsonl"):
        path.unlink()
    found = {}
    for radius, time in ((0.1, LATE), (0.2, EARLY)):
        spec = fixture.trial("apts", 1, "report", hyperparameters={"radius": radius})
        found[radius] = spec.configuration
        fixture.write(folder, spec, fixture.evals(
            spec, pace=1.0, step_s=0.01, backwards=1, every=1), "miss", time=time, test=0.5)
    rewritten(folder, untuned={"apts": found[0.2]})
    assert [r.trial.hyperparameters["radius"] for r in seeds(folder, "apts")] == [0.2]
    rewritten(folder, untuned={})
    assert [r.trial.hyperparameters["radius"] for r in seeds(folder, "apts")] == [0.1]


def test_a_study_writes_down_what_it_ran_with(finished):
    written = store.read_study(finished.folder)
    records = store.read_trials(finished.folder)
    assert written.code == {r.trial.label: r.trial.plugin_sha256 for r in records}
    assert written.data == {"digits": records[0].trial.data_sha256}
    assert written.untuned == {"apts": next(
        r.trial.configuration for r in records if r.trial.label == "apts")}
