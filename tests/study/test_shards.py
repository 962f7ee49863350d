"""Studies in parts: who runs what, and that the parts make the same study."""

import re
import subprocess
import sys
from collections import Counter

import msgspec
import pandas as pd
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.study.execution import StudyShard, parse_shard
from bench_apts.study.plan import Plan

SMALL = ("--gpus", "1,2", "--optimizers", "sgd,adam,zero1,apts", "--trials", "3", "--seeds", "2",
         "--set", "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500",
         "--offline")


@pytest.fixture
def plan(make_study, digits):
    return Plan(make_study("sgd", "adam", "apts", "sgd[momentum=0]", ranks=(1, 2), trials=7,
                           seeds=5, twins=True), {"digits": digits})


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_trial_has_one_shard_and_each_competitor_is_dealt_out_evenly(plan, count):
    tasks = [(number, cell) for number in range(7) for cell in plan.cells
             if number < plan.tunings(cell)]
    assert len(tasks) == 6 * 7
    parts = [StudyShard(index, count) for index in range(1, count + 1)]
    mine = [part.tuning(plan, tasks) for part in parts]
    assert sorted((number, plan.cells.index(cell)) for part in mine for number, cell in part
                  ) == sorted((number, plan.cells.index(cell)) for number, cell in tasks)
    for cell in plan.cells:
        each = [sum(other == cell for _, other in part) for part in mine]
        assert max(each) - min(each) <= 1
    sizes = [*map(len, mine)]
    assert max(sizes) - min(sizes) <= 6
    finals = plan.reporting([])  # of what needs no tuning, and its twins
    ours = [part.reporting(plan, finals) for part in parts]
    assert Counter(t.run_id for part in ours for t in part) == Counter(t.run_id for t in finals)
    for part in ours:  # all of one repetition at one N are together
        for trial in part:
            assert [t for t in finals if (t.ranks, t.repetition) == (
                trial.ranks, trial.repetition)] == [t for t in part if (
                    t.ranks, t.repetition) == (trial.ranks, trial.repetition)]
    assert sum(part.finals(plan) for part in parts) == sum(map(plan.reports, plan.cells)) == 80


def test_a_follower_starts_where_its_leader_does(make_study, digits):
    plan = Plan(make_study("adam", "zero1", "zero2", trials=2), {"digits": digits})
    adam, *zeros = plan.cells
    assert all(plan.search_owner(zero) == adam for zero in zeros)
    for count in (2, 3, 5):
        parts = [StudyShard(index, count).tuning(plan, [(0, cell) for cell in plan.cells])
                 for index in range(1, count + 1)]
        assert sorted(map(len, parts)) == [0] * (count - 1) + [3]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "2/", "/2", "a/b", "-1/2", "1/0", "1/2/3"])
def test_what_is_no_shard(make_study, text):
    with pytest.raises(UserError, match="write which part of how many, for instance 2/8"):
        parse_shard(text, make_study("sgd"))


def test_searches_that_learn_are_not_split(make_study, cli):
    study = make_study("sgd")
    assert parse_shard(None, study) == StudyShard(1, 1)
    assert parse_shard("2/8", study) == StudyShard(2, 8)
    for change in ({"sampler": "tpe"}, {"pruner": "asha"}):
        with pytest.raises(UserError, match=r"learns from .* --shared in place of --shard"):
            parse_shard("2/8", msgspec.structs.replace(study, **change))
    assert parse_shard("2/8", msgspec.structs.replace(study, sampler="tpe", trials=0))
    done = cli("tune", "--shard", "1/2", "--sampler", "tpe")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def results(folder):
    """All that is not a time, by run id."""
    return {record.header.run_id: (
        record.end.status, record.end.test, record.end.final_weights_sha256, record.end.calls,
        [(e.step, e.samples, e.train_loss, e.validation, e.forwards, e.backwards, e.comm,
          e.flops) for e in record.evals]) for record in store.read_trials(folder)}


def run(environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bench_apts", *map(str, arguments)], env=environment,
        capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_shards_make_the_same_study_as_one_command(environment, tmp_path):
    run(environment, "run", *SMALL, "--out", tmp_path, "--study", "alone")
    for index in (1, 2):
        said = run(environment, "run", *SMALL, "--out", tmp_path, "--study", f"t{index}",
                   "--shard", f"{index}/2")
        assert "bench-apts merge OUT A B" in said.splitlines()[-1]
        assert not (tmp_path / f"t{index}" / "report.html").exists()
    run(environment, "merge", tmp_path / "tuned", tmp_path / "t1", tmp_path / "t2")
    for index in (1, 2):  # the final trainings are split as well
        run(environment, "merge", tmp_path / f"f{index}", tmp_path / "tuned")
        said = run(environment, "run", *SMALL, "--out", tmp_path, "--study", f"f{index}",
                   "--shard", f"{index}/2")
        assert "10 final trainings of the other shards are not there" in said.splitlines()[-1]
    run(environment, "merge", tmp_path / "joined", tmp_path / "f1", tmp_path / "f2")
    said = run(environment, "run", *SMALL, "--out", tmp_path, "--study", "joined")
    assert said.count("kept from an earlier run") == said.count("[") == 34
    assert results(tmp_path / "joined") == results(tmp_path / "alone")
    assert "all sound" in run(environment, "check", tmp_path / "joined")
    for name in TABLES:
        one, other = (untimed(tmp_path / folder / "tables" / f"{name}.csv")
                      for folder in ("joined", "alone"))
        assert one == other, name


TABLES = ("bytes-phase", "bytes-step", "communication", "known-traffic", "main", "trials",
          "tuning", "success-by-hyperparameter", "trust-region", "trust-region-course",
          "curves")
"""Tables of the report that hold counts, losses and configurations."""

TIMED = re.compile(r"(^|_)(s|seconds|started|memory|restart)(_|$)|^file_sha256$")
"""Columns that tell of seconds, of memory, or of the files that hold them."""


def untimed(path):
    table = pd.read_csv(path)
    kept = [name for name in table.columns if not TIMED.search(name)]
    assert len(kept) > 5
    assert len(table)
    return table[kept].to_csv()
