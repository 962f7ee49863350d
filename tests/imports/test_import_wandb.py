"""``bench-apts import wandb-export``: made-up exports whose costs are worked out by hand."""

import csv

import pytest

from bench_apts.core.store import read_trials

RUNS = '''"Name","State","optim","lr"
"brisk-sun-1","finished","adam","0.001"
"calm-sea-2","crashed","adam","0.1"
"dry-hill-3","finished","sgd","0.5"
'''
# adam: a hit at 12 s, and a crash after 7 s: 19 s. Lines without the metric are no evaluations.
HISTORIES = {
    "brisk-sun-1": ",_runtime,_step,loss,val/acc\n0,3,0,2.1,\n1,6,10,1.0,0.8\n2,12,20,0.9,0.95\n",
    "calm-sea-2": ",_runtime,_step,loss,val/acc\n0,7,10,NaN,NaN\n",
    "dry-hill-3": ",_runtime,_step,loss,val/acc\n0,5,10,1.0,0.5\n1,9,20,1.0,0.6\n"}
COMMAND = ("import", "wandb-export", "runs.csv", "histories", "--optimizer", "optim", "--metric",
           "val/acc", "--target", "0.9")


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "histories").mkdir()
    (tmp_path / "runs.csv").write_text(RUNS, encoding="utf-8")
    for name, text in HISTORIES.items():
        (tmp_path / "histories" / f"{name}.csv").write_text(text, encoding="utf-8")
    return tmp_path


def test_runs_become_trials_that_are_billed_whatever_their_end(cli, export):
    done = cli(*COMMAND, "--hyperparameters", "lr")
    assert (done.code, done.err) == (0, "")
    found = {r.trial.hyperparameters["lr"]: r for r in read_trials(export / "results/runs")}
    assert {lr: r.end.status for lr, r in found.items()} == {
        0.001: "hit", 0.1: "error", 0.5: "miss"}
    assert len(found[0.001].evals) == 2
    assert "crashed" in found[0.1].end.reason
    assert cli("cost", "results/runs").code == 0
    with (export / "results/runs/tables/bill-search.csv").open(encoding="utf-8") as file:
        costs = {row["optimizer"]: row["ert_core_seconds"] for row in csv.DictReader(file)}
    assert float(costs["adam"]) == 19
    assert costs["sgd"] == ""
    assert cli("check", "results/runs").code == 0
    assert cli("report", "results/runs").code == 0


@pytest.mark.parametrize(("file", "old", "new", "words"), [
    ("runs.csv", "optim", "opt", ("runs.csv", "'optim'", "--optimizer")),
    ("runs.csv", "crashed", "lost", ("line 3", "'State'", "'lost'")),
    ("runs.csv", "calm-sea-2", "other", ("'other'", "other.csv")),
    ("runs.csv", '"dry-hill-3","finished","sgd","0.5"\n', "", ("dry-hill-3.csv",)),
    ("runs.csv", "dry-hill-3", "calm-sea-2", ("line 4", "second time")),
    ("histories/dry-hill-3.csv", "val/acc", "acc", ("dry-hill-3.csv", "'val/acc'", "--metric")),
    ("histories/dry-hill-3.csv", "9,20", "2,20", ("dry-hill-3.csv", "'_runtime'", "step 20")),
])
def test_a_mistake_ends_in_one_line(cli, export, file, old, new, words):
    path = export / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    done = cli(*COMMAND)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words), done.err
