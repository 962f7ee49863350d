"""Replays and figures in worker processes: the same results, asked for once, and no orphans."""

import multiprocessing
import os
import signal
import subprocess
import sys

import psutil
import pytest
from report_fixture import FREE, Folder

from bench_apts import core, reports
from bench_apts.core.errors import UserError
from bench_apts.reports import replayed_searches, tuning_pools, workers
from bench_apts.reports.gather import gather
from bench_apts.reports.replayed_searches import Replays
from bench_apts.reports.tuning_pools import CostView, read_pools
from bench_apts.stats import network_model
from bench_apts.stats.learning_curves import curve
from bench_apts.stats.tuning_replay import replay_all

DRAWS = (2, -4, 3, -5, -6)
VIEW = CostView("samples", 1.0, "cpu")
PATIENCE_S = 200

REPORT = """
import multiprocessing, sys
from pathlib import Path
from bench_apts.reports.gather import gather
from bench_apts.reports.replayed_searches import Replays
from bench_apts.reports.tuning_pools import CostView, read_pools

view = CostView("samples", 1.0, "cpu")
pools = read_pools(gather(Path(sys.argv[1])).groups, view)
with Replays(pools, view) as replays:
    print(multiprocessing.active_children()[0].pid, flush=True)
    sys.stdin.read()
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
def pools(folder):
    return read_pools(gather(folder.path).groups, VIEW)


def test_the_worker_finds_what_this_process_would(pools):
    here = {(pool.cell.label, pool.cell.ranks): replay_all(
        [curve(record, "samples", 1.0) for record in pool.cell.tune], "max", limit=len(DRAWS))
        for pool in pools if pool.cell.tune}
    with Replays(pools, VIEW) as replays:
        policies, notes = replays.of(pools)
        assert repr(replays.of(pools)) == repr((policies, notes))
    own = [played for played in policies if played.cell]
    assert {(played.cell.label, played.cell.ranks) for played in own} == set(here)
    for played in own:
        # As text, in which what is unknown equals itself.
        assert repr(played.found) == repr(here[played.cell.label, played.cell.ranks][
            played.policy])


def test_without_a_search_there_is_no_worker(pools, monkeypatch):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    untuned = [pool for pool in pools if not pool.cell.tune]
    with Replays(untuned, VIEW) as replays:
        assert replays.of(untuned) == ([], [])


def test_a_report_asks_for_each_replay_and_reads_each_trial_once(folder, monkeypatch, tmp_path):
    asked, read, loaded = [], [], []
    pool, shipped = tuning_pools.Pool, network_model._read

    class Executor(workers.ProcessPoolExecutor):
        def submit(self, *arguments, **options):
            asked.append(arguments)
            return super().submit(*arguments, **options)

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Executor)
    monkeypatch.setattr(tuning_pools, "Pool", lambda cell, *costs: (
        read.append((cell.label, cell.ranks, costs)) or pool(cell, *costs)))
    network_model._shipped.cache_clear()
    monkeypatch.setattr(network_model, "_read", lambda path: loaded.append(path) or shipped(path))
    reports.build(folder.path, ("json",), out=tmp_path / "out")
    assert len(asked) == 4
    assert len(read) == len(set(read))
    assert {(label, ranks) for label, ranks, _ in read} == {
        (label, ranks) for label in ("adam", "sgd", "apts") for ranks in (1, 2)}
    assert len(loaded) == 1


def test_a_killed_worker_is_one_line(pools, monkeypatch, tmp_path):
    interpreter = tmp_path / "python"  # which has not answered when it is killed
    interpreter.write_text("#!/bin/sh\nexec sleep 600\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(interpreter))
    with Replays(pools, VIEW) as replays:
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(UserError, match=r"replays tuning policies .* free some memory"):
            replays.of(pools)


def test_a_worker_that_cannot_be_started_is_one_line(pools, monkeypatch, tmp_path):
    def start(*_arguments, **_options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", start)
    with pytest.raises(UserError, match="cannot be started: Cannot allocate memory; free some"):
        Replays(pools, VIEW)


def test_files_of_the_working_folder_are_no_modules(pools, monkeypatch, tmp_path):
    for name in ("numpy", "pickle", "selectors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not that one')\n")
    monkeypatch.chdir(tmp_path)
    with Replays(pools, VIEW) as replays:
        assert replays.of(pools)[0]
    assert "PYTHONSAFEPATH" not in os.environ


def test_evaluations_out_of_order_are_named_with_their_file(folder):
    path = min((folder.path / "trials").glob("*.jsonl"))
    path.write_text(path.read_text().replace('"samples":1400,', '"samples":2800,'))
    with pytest.raises(UserError, match=f"{path}: steps must increase"):
        reports.build(folder.path)


def test_the_worker_ends_when_its_answer_is_not_wanted(pools, monkeypatch):
    monkeypatch.setattr(replayed_searches, "replay_all", _sleep)
    with Replays(pools, VIEW):
        found = [psutil.Process(worker.pid) for worker in multiprocessing.active_children()]
    assert found
    assert not any(process.is_running() for process in found)


def _sleep(*_arguments, **_options):
    signal.pause()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_report(folder, environment, processes, how):
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    with subprocess.Popen(
            [sys.executable, "-c", REPORT, folder.path], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as report:
        worker = psutil.Process(int(report.stdout.readline()))
        assert worker.ppid() == report.pid
        report.send_signal(how)
        assert report.wait(PATIENCE_S) != 0

    def over():
        try:
            return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended between the two questions
            return True

    processes.wait_for(over)


def test_figures_are_the_same_however_many_processes_draw_them(folder, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(workers, "_WORTH_A_WORKER", 2)
    for cores in (1, 3):
        monkeypatch.setattr(core.environment, "cores", lambda cores=cores: cores)
        out = tmp_path / str(cores)
        reports.build(folder.path, ("html", "svg"), out=out)
        drawn.append({path.name: path.read_bytes() for path in out.rglob("*.*")})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 4
    assert multiprocessing.active_children() == []
