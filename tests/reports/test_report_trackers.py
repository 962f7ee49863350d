"""Trials as runs of TensorBoard, Weights & Biases and MLflow, by the packages that there are."""

import importlib
import math

import pytest
import report_fixture as fixture

from bench_apts.core.errors import UserError
from bench_apts.reports import tracker_exports
from bench_apts.reports.gather import gather


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    return gather(fixture.populate(tmp_path_factory.mktemp("results") / "study",
                                   fixture.study((2,), 0, 1)))


def test_every_trial_is_a_run_with_settings_points_and_results(gathered):
    runs = list(tracker_exports.tracked_runs(gathered))
    assert [run.name for run in runs] == [r.header.run_id for r in gathered.trials]
    run, record = next((run, record) for run, record in zip(runs, gathered.trials, strict=True)
                       if record.trial.label == "sgd")
    assert run.settings["optimizer"] == "sgd"
    assert run.settings["hyperparameters.lr"] == record.trial.hyperparameters["lr"]
    assert run.group == "sgd N=2 report"
    for (step, _, metrics), event in zip(run.points, record.evals, strict=True):
        assert step == event.step
        assert metrics["validation/accuracy"] == event.validation["accuracy"]
        assert metrics["cost/samples"] == event.samples
        assert all(map(math.isfinite, metrics.values()))
    assert run.results["status"] == "hit"
    assert run.results["to_target/samples"] > 0


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_what_installs_it(gathered, tracker, tmp_path,
                                                          monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=rf"pip install 'bench-apts\[{tracker}\]'"):
        tracker_exports.export(gathered, tracker, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_tensorboard_reads_what_was_written(gathered, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    count = tracker_exports.export(gathered, "tensorboard", tmp_path)
    assert count == len(gathered.trials)
    record = next(r for r in gathered.trials if r.trial.label == "sgd")
    (place,) = tmp_path.glob(f"digits/sgd-N=2-report/{record.header.run_id}")
    found = EventAccumulator(str(place)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("validation/accuracy")] == [
        (event.step, pytest.approx(event.validation["accuracy"])) for event in record.evals]


def test_mlflow_reads_what_was_written(gathered, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    tracker_exports.export(gathered, "mlflow", tmp_path)
    client = mlflow.MlflowClient(tracking_uri=tracker_exports.mlflow_address(tmp_path))
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.params["optimizer"] for run in runs} == set(fixture.PACE)


def test_wandb_writes_offline_runs(gathered, tmp_path):
    pytest.importorskip("wandb")
    tracker_exports.export(gathered, "wandb", tmp_path)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == len(gathered.trials)
