"""``bench-apts import algoperf``: a small made-up competition, and the public logs of v0.5."""

import csv
import json
import os
import tarfile
from pathlib import Path

import pytest

from bench_apts.core.store import read_trials

DATA = os.environ.get("BENCH_APTS_DATA")  # which ``cli`` takes from the environment
HEAD = ("accumulated_eval_time,accumulated_submission_time,global_step,total_duration,"
        "validation/ssim")
TARGETS = {"base_workloads": ["fastmri"], "workloads": {
    "fastmri": {"target_metric_name": "ssim", "validation_target_value": 0.7},
    "fastmri_tanh": {"target_metric_name": "ssim", "validation_target_value": 0.6}}}


def write(top, ruleset, submission, study, workload, trial, rows):
    folder = top / ruleset / submission / f"study_{study}" / workload / f"trial_{trial}"
    folder.mkdir(parents=True)
    (folder / "eval_measurements.csv").write_text(
        "\n".join([HEAD, *(f"1.0,{seconds},{step},{seconds + 1},{ssim}"
                           for step, seconds, ssim in rows)]) + "\n", encoding="utf-8")


@pytest.fixture
def competition(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "logs"
    # alpha: hits after 10 s and misses with 30 s, so 40 s; times 8 GPUs. Its last study is absent.
    write(top, "external_tuning", "alpha", 0, "fastmri_jax", 1, [(1, 5, 0.5), (9, 10, 0.71)])
    write(top, "external_tuning", "alpha", 0, "fastmri_jax", 2, [(1, 5, 0.5), (9, 30, 0.69)])
    for study in (0, 10):
        for trial in (1, 2):
            write(top, "external_tuning", "beta", study, "fastmri_pytorch", trial,
                  [(1, 20, 0.8), (2, 25, 0.9)])
    write(top, "external_tuning", "beta", 0, "fastmri_tanh_pytorch", 1, [(1, 20, 0.65)])
    write(top, "external_tuning", "beta", 0, "fastmri_odd_pytorch", 1, [(1, 20, 0.65)])
    write(top, "self_tuning", "alpha", 0, "fastmri_jax", 1, [(1, 50, 0.75)])
    (tmp_path / "targets.json").write_text(json.dumps(TARGETS), encoding="utf-8")
    return tmp_path


def test_a_competition_is_billed_with_all_its_trials(cli, competition):
    done = cli("import", "algoperf", "logs", "--targets", "targets.json")
    assert (done.code, done.err) == (0, "")
    assert "note: alpha is incomplete: 2 of 4 on fastmri, 0 of 1 on fastmri@tanh" in done.out
    assert "fastmri_odd (1)" in done.out
    assert "imported: 8 trials (7 reached the target)" in done.out
    found = read_trials(competition / "results/algoperf")
    assert {r.trial.stage for r in found if r.trial.label == "alpha-self"} == {"report"}
    # study_10 comes after study_0.
    assert [r.trial.hyperparameters["trial"] for r in sorted(
        found, key=lambda r: r.trial.repetition)
        if r.trial.label == "beta" and "@" not in r.trial.suite.name] == [
            "study_0/trial_1", "study_0/trial_2", "study_10/trial_1", "study_10/trial_2"]
    assert cli("cost", "results/algoperf").code == 0
    with (competition / "results/algoperf/tables/bill-search.csv").open() as file:
        cost = {(row["suite"], row["optimizer"]): row["ert_core_seconds"]
                for row in csv.DictReader(file)}
    assert float(cost["fastmri", "alpha"]) == 8 * 40
    assert float(cost["fastmri", "beta"]) == 8 * 20
    assert float(cost["fastmri", "alpha-self"]) == 8 * 50
    assert cost["fastmri@tanh", "alpha"] == ""
    assert cli("check", "results/algoperf").code == 0
    assert cli("report", "results/algoperf", "--format", "html,json").code == 0


def test_one_ruleset_and_the_base_workloads_alone(cli, competition):
    done = cli("import", "algoperf", "logs/external_tuning", "--targets", "targets.json",
               "--workloads", "base", "--study", "external")
    assert (done.code, done.err) == (0, "")
    assert "left out 1 trials of workloads that --workloads does not name" in done.out
    found = read_trials(competition / "results/external")
    assert {(r.trial.label, r.trial.suite.name) for r in found} == {
        ("alpha", "fastmri"), ("beta", "fastmri")}


@pytest.mark.parametrize(("arguments", "words"), [
    (("logs",), ("--targets",)),
    (("nowhere", "--targets", "targets.json"), ("nowhere",)),
    (("logs", "--targets", "bad.json"), ("bad.json", "'fastmri'", "'validation_target_value'")),
    (("logs", "--targets", "targets.json", "--workloads", "wmt"), ("wmt", "fastmri_tanh")),
    (("odd", "--targets", "targets.json"), ("eval_measurements.csv", "SUBMISSION")),
    (("other", "--targets", "targets.json"), ("eval_measurements.csv", "'validation/ssim'")),
])
def test_a_mistake_ends_in_one_line(cli, competition, arguments, words):
    bad = {"workloads": {"fastmri": {"target_metric_name": "ssim"}}}
    (competition / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
    (competition / "odd").mkdir()
    (competition / "odd/eval_measurements.csv").write_text(HEAD, encoding="utf-8")
    write(competition / "other", "external_tuning", "a", 0, "fastmri_jax", 1, [(1, 2, 0.5)])
    for path in (competition / "other").rglob("*.csv"):
        path.write_text(path.read_text().replace("ssim", "loss"), encoding="utf-8")
    done = cli("import", "algoperf", *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words), done.err


def test_the_public_logs_of_one_workload(cli, tmp_path, monkeypatch):
    data = Path(DATA or tmp_path / "absent") / "algoperf-v05"
    if not (data / "evaluations.tar.xz").is_file():
        pytest.skip("no AlgoPerf logs: set BENCH_APTS_DATA to a folder with algoperf-v05")
    monkeypatch.chdir(tmp_path)
    with tarfile.open(data / "evaluations.tar.xz") as archive:
        archive.extractall(tmp_path, (each for each in archive if "/criteo1tb_" in each.name
                                      and "init" not in each.name), filter="data")
    done = cli("import", "algoperf", "logs", "--targets", data / "targets.json")
    assert (done.code, done.err) == (0, "")
    assert "criteo1tb_layernorm (15)" in done.out
    found = read_trials(tmp_path / "results/algoperf")
    hits = [r.end.status == "hit" for r in found if r.trial.label == "baseline"]
    assert (len(hits), sum(hits)) == (25, 11)
