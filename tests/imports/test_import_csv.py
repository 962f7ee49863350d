"""``bench-apts import csv``: made-up logs whose costs are worked out by hand."""

import csv
import json

import pytest

from bench_apts.core.store import read_trials

# Two of three draws of adam hit 0.9: at 20 s and 30 s; the third is billed its 50 s. So
# (20 + 30 + 50)/2 = 50 s on each of 4 GPUs, 200 GPU-seconds. Both seeds of free hit, at 60 s.
LOGS = """optimizer,trial,step,seconds,acc,lr
adam,a1,0,0,0.1,0.001
adam,a1,100,10,0.7,0.001
adam,a1,200,20,0.93,0.001
adam,a1,300,30,0.95,0.001
adam,a2,100,15,0.5,0.01
adam,a2,200,30,0.9,0.01
adam,a3,100,25,0.4,1.0
adam,a3,200,50,,1.0
free,s1,100,30,0.6,0.1
free,s1,200,60,0.91,0.1
free,s2,100,30,0.6,0.1
free,s2,200,60,0.92,0.1
"""
BASE = ("--time", "seconds", "--metric", "acc", "--target", "0.9", "--gpus", "4")
FREE = ("--tuning-free", "free")


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs.csv").write_text(LOGS, encoding="utf-8")
    return tmp_path


def table(folder, name):
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_costs_are_those_worked_out_by_hand(cli, logs):
    done = cli("import", "csv", "logs.csv", *BASE, *FREE, "--hyperparameters", "lr")
    assert (done.code, done.err) == (0, "")
    assert "imported: 5 trials (4 reached the target), 12 evaluations" in done.out
    assert cli("cost", "results/logs").code == 0
    rows = {row["optimizer"]: row for row in table(logs / "results/logs", "bill-search")}
    assert float(rows["adam"]["ert_core_seconds"]) == pytest.approx(200)
    assert float(rows["free"]["ert_core_seconds"]) == pytest.approx(240)
    assert rows["adam"]["ert_samples"] == rows["adam"]["ert_wire_bytes"] == ""
    found = {r.trial.hyperparameters["lr"]: r for r in read_trials(logs / "results/logs")
             if r.trial.stage == "tune"}
    assert [found[lr].end.status for lr in (0.001, 0.01, 1)] == ["hit", "hit", "miss"]
    assert found[1].evals[-1].validation == {}
    assert "train_s" not in found[1].header.imported.unmeasured
    assert "samples" in found[1].header.imported.unmeasured


def test_every_reader_works_and_says_what_was_not_counted(cli, logs):
    assert cli("import", "csv", "logs.csv", *BASE, *FREE).code == 0
    checked = cli("check", "results/logs")
    assert (checked.code, "trials: 5, all sound" in checked.out) == (0, True)
    assert cli("report", "results/logs", "--format", "html,json,csv").code == 0
    report = json.loads((logs / "results/logs/report.json").read_bytes())
    imported = " ".join(text for caveat in report["caveats"] for text in caveat.values()
                        if "bench-apts import csv" in text)
    assert "samples" in imported
    main = {row["optimizer"]: row for row in report["tables"]["main"]}
    assert main["adam"]["success_rate"] == pytest.approx(2 / 3)
    assert main["free"]["backwards_to_target"] is main["free"]["memory_bytes"] is None
    compared = cli("compare", "results/logs", "adam", "free")
    assert compared.code in (0, 1)
    assert "expected cost" in compared.out


def test_trials_on_cpus_are_billed_in_samples(cli, logs):
    done = cli("import", "csv", "logs.csv", "--device", "cpu", "--batch-size", "32", "--metric",
               "acc", "--target", "0.9", "--study", "cpu")
    assert done.code == 0
    assert cli("cost", "results/cpu").code == 0
    rows = {row["optimizer"]: row for row in table(logs / "results/cpu", "bill-search")}
    assert float(rows["adam"]["ert_samples"]) == 32 * (200 + 200 + 200) / 2
    assert rows["adam"]["ert_wall_s"] == ""
    assert cli("report", "results/cpu").code == 0


def test_several_problems_with_their_targets_and_falling_metrics(cli, logs):
    (logs / "two.csv").write_text(
        "optimizer,trial,step,seconds,loss,what\n"
        "a,1,1,5,0.4,easy\na,2,1,7,0.2,hard\na,3,1,9,0.6,easy\n", encoding="utf-8")
    (logs / "targets.json").write_text(json.dumps({"workloads": {
        name: {"target_metric_name": "loss", "validation_target_value": value}
        for name, value in (("easy", 0.5), ("hard", 0.1))}}), encoding="utf-8")
    done = cli("import", "csv", "two.csv", "--time", "seconds", "--suite-column", "what",
               "--targets", "targets.json")
    assert (done.code, done.err) == (0, "")
    assert {(r.trial.suite.name, r.trial.hyperparameters["trial"]): r.end.status
            for r in read_trials(logs / "results/two")} == {
                ("easy", "1"): "hit", ("easy", "3"): "miss", ("hard", "2"): "miss"}


@pytest.mark.parametrize(("old", "new", "arguments", "words"), [
    ("", "", ("--time", "sec"), ("logs.csv", "'sec'", "--time", "seconds")),
    ("a1,100,10", "a1,100,ten", (), ("logs.csv, line 3", "'seconds'", "'ten'")),
    ("a1,200,20", "a1,200,5", (), ("logs.csv", "'seconds'", "step 200")),
    ("a1,200,20", "a1,200,", (), ("logs.csv", "'seconds'", "step 200")),
    ("a1,200,20", "a1,2.5,20", (), ("line 4", "'step'", "whole")),
    ("adam,a1,200", ",a1,200", (), ("line 4", "'optimizer'")),
    ("a1,200,20", "a1,200,20,1", (), ("line 4", "fields")),
    ("0.95,0.001", "0.95,0.1", ("--hyperparameters", "lr"), ("line 5", "'lr'")),
    ("", "", ("--tuning-free", "fre"), ("fre", "adam, free")),
    ("", "", ("--device", "cpu"), ("--samples",)),
    ("", "", ("--target", "-1"), ("-1",)),
    ("", "", ("--suite", "a b"), ("'a b'",)),
    ("", "", ("--status", "lr"), ("line 2", "'lr'", "diverged")),
    ("", "", ("--targets", "logs.csv"), ("--metric",)),
])
def test_a_mistake_ends_in_one_line_that_names_file_column_and_remedy(
        cli, logs, old, new, arguments, words):
    (logs / "logs.csv").write_text(LOGS.replace(old, new, 1) if old else LOGS, encoding="utf-8")
    done = cli("import", "csv", "logs.csv", *BASE, *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words), done.err
    assert not list((logs / "results").glob("*"))


def test_an_existing_folder_is_left_as_it_is(cli, logs):
    assert cli("import", "csv", "logs.csv", *BASE).code == 0
    done = cli("import", "csv", "logs.csv", *BASE)
    assert (done.code, "--study" in done.err) == (2, True)
