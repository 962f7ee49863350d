"""Replays in a process beside a report's own: the same numbers, asked for once, and no orphans."""

import signal
import subprocess
import sys

import psutil
import pytest
from bill_fixture import FREE, Folder

from bench_apts import reports
from bench_apts.core.errors import UserError
from bench_apts.reports import replayed_searches
from bench_apts.reports import replayed_searches as replay_module
from bench_apts.reports import tuning_pools as pool_module
from bench_apts.reports.gather import gather
from bench_apts.reports.replayed_searches import ReplayJob, ReplayProcess, Replays
from bench_apts.reports.tuning_pools import CostView, read_pools
from bench_apts.stats import network_model
from bench_apts.stats.learning_curves import make_curve

DRAWS = (2, -4, 3, -5, -6)
VIEW = CostView("samples", 1.0, "cpu")
PATIENCE_S = 200

LONG = """
import time
from bench_apts.reports.replayed_searches import ReplayJob, ReplayProcess
from bench_apts.stats.learning_curves import make_curve

steps = tuple(range(60))
miss = make_curve(steps, tuple(0.1 for _ in steps), tuple(map(float, steps)), None, 60.0)
with ReplayProcess([ReplayJob([miss] * 40, "max", (2, 4), 40)] * 500) as player:
    print(player._process.pid, flush=True)
    player.found()
"""


@pytest.fixture
def folder(tmp_path):
    """Two optimizers that were tuned at two N, and one that was not."""
    study = Folder(tmp_path / "study", labels=("adam", "sgd", "apts"), ranks=(1, 2))
    for ranks in (1, 2):
        study.add("adam", "tune", DRAWS, ranks=ranks)
        study.add("sgd", "tune", DRAWS[::-1], ranks=ranks)
        study.add("apts", "report", FREE, ranks=ranks)
    return study


@pytest.fixture
def job():
    steps = tuple(range(6))
    curves = [make_curve(steps, (0.1, 0.2, float("nan"), 0.4, 0.5, 0.1 * number), tuple(
        map(float, steps)), 4 if number % 3 == 0 else None, 4.0 if number % 3 == 0 else 7.5)
        for number in range(9)]
    return ReplayJob(curves, "max", (2, 4), 7)


def test_a_process_beside_finds_what_this_one_would(job):
    other = ReplayJob(job.curves[::-1], "min", (), 3)
    with ReplayProcess([job, other]) as played:
        # As text, in which what is unknown equals itself.
        assert repr(played.found()) == repr([job.play(), other.play()])
        assert played.found() is played.found()


def test_without_a_job_there_is_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with ReplayProcess([]) as played:
        assert played.found() == []


def test_a_report_asks_for_each_replay_and_reads_each_trial_once(folder, monkeypatch, tmp_path):
    asked, read, loaded = [], [], []
    start, reader = replayed_searches.ReplayProcess, pool_module._read
    shipped = network_model._read

    def started(jobs):
        asked.append(len(jobs))
        return start(jobs)

    monkeypatch.setattr(replay_module, "ReplayProcess", started)
    monkeypatch.setattr(pool_module, "_read", lambda cell, view: (
        read.append((cell.label, cell.ranks, view)) or reader(cell, view)))
    network_model._shipped.cache_clear()
    monkeypatch.setattr(network_model, "_read", lambda path: loaded.append(path) or shipped(path))
    reports.build(folder.path, ("json",), out=tmp_path / "out")
    assert asked == [4]
    assert len(read) == len(set(read))
    assert len([view for *_, view in read if view == VIEW]) == 6
    assert len(loaded) == 1


def test_a_killed_process_is_one_line(folder, monkeypatch, tmp_path):
    here = read_pools(gather(folder.path).groups, VIEW)
    script = tmp_path / "python"  # which has not answered when it is killed
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with Replays(here, VIEW) as replays:
        replays._player._process.kill()
        with pytest.raises(UserError, match="replays tuning policies ended with SIGKILL: it said "
                                            "nothing; free some memory"):
            replays.of(here)


def test_what_a_broken_process_says_last_is_told(job, monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho begun >&2\necho no memory >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with (ReplayProcess([job]) as played,
          pytest.raises(UserError, match="ended with code 3: no memory; free some memory")):
        played.found()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="cannot be started: No such file"):
        ReplayProcess([job])


def test_files_of_the_working_folder_are_no_modules(job, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('not that one')\n")
    monkeypatch.chdir(tmp_path)
    with ReplayProcess([job]) as played:
        assert len(played.found()) == 1


def test_evaluations_out_of_order_are_told_of_with_their_file(folder):
    path = min((folder.path / "trials").glob("*.jsonl"))
    path.write_text(path.read_text().replace('"samples":1400,', '"samples":2800,'))
    with pytest.raises(UserError, match=f"{path}: steps must increase; the file is corrupt"):
        reports.build(folder.path)


def test_a_process_ends_when_its_answer_is_not_wanted(job):
    with ReplayProcess([ReplayJob(job.curves * 4, "max", (2, 4), 30)] * 200) as played:
        process = psutil.Process(played._process.pid)
    assert not process.is_running()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_report(environment, processes, how):
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    with subprocess.Popen(
            [sys.executable, "-c", LONG], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as report:
        beside = psutil.Process(int(report.stdout.readline()))
        assert beside.ppid() == report.pid
        report.send_signal(how)
        assert report.wait(PATIENCE_S) != 0

    def over():
        try:
            return not beside.is_running() or beside.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended between the two questions
            return True

    processes.wait_for(over)
