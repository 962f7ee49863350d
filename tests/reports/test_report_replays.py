"""Replays, asked for once; figures in worker processes: the same results, and no orphans."""

import multiprocessing
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
from bench_apts.reports.replayed_searches import replayed_policies
from bench_apts.reports.tuning_pools import CostView, read_pools
from bench_apts.stats import network_model
from bench_apts.stats.learning_curves import curve
from bench_apts.stats.tuning_replay import replay_all

DRAWS = (2, -4, 3, -5, -6)
VIEW = CostView("samples", 1.0, "cpu")
PATIENCE_S = 200

REPORT = """
import multiprocessing, os, signal
from bench_apts.core import environment
from bench_apts.reports import canvas, workers

class Slow(canvas.Figure):
    @property
    def rendered(self):
        if os.getpid() != main:
            print(os.getpid(), flush=True)
            signal.pause()
        return "", ""

main = os.getpid()
environment.cores = lambda: 2
with workers.start_workers() as drawing:
    for _ in range(2):
        drawing.draw([Slow(None, str(index), "", "", {}) for index in range(9)])
    drawing.finish()
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


def test_policies_are_replayed_over_the_trials_of_each_search(pools):
    here = {(pool.cell.label, pool.cell.ranks): replay_all(
        [curve(record, "samples", 1.0) for record in pool.cell.tune], "max", limit=len(DRAWS))
        for pool in pools if pool.cell.tune}
    own = [played for played in replayed_policies(pools, VIEW)[0] if played.cell]
    assert {(played.cell.label, played.cell.ranks) for played in own} == set(here)
    for played in own:
        # As text, in which what is unknown equals itself.
        assert repr(played.found) == repr(here[played.cell.label, played.cell.ranks][
            played.policy])
    assert replayed_policies([pool for pool in pools if not pool.cell.tune], VIEW) == ([], [])


def test_a_report_asks_for_each_replay_and_reads_each_trial_once(folder, monkeypatch, tmp_path):
    asked, read, loaded = [], [], []
    pool, shipped = tuning_pools.Pool, network_model._read

    monkeypatch.setattr(replayed_searches, "replay_all", lambda *arguments, **options: (
        asked.append(arguments) or replay_all(*arguments, **options)))
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


def test_evaluations_out_of_order_are_named_with_their_file(folder):
    path = min((folder.path / "trials").glob("*.jsonl"))
    path.write_text(path.read_text().replace('"samples":1400,', '"samples":2800,'))
    with pytest.raises(UserError, match=f"{path}: steps must increase"):
        reports.build(folder.path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_report(environment, processes, how):
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    with subprocess.Popen(
            [sys.executable, "-c", REPORT], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as report:
        # One beside the report, and one for each core in the end.
        drawing = [psutil.Process(int(report.stdout.readline())) for _ in range(3)]
        assert {worker.ppid() for worker in drawing} == {report.pid}
        report.send_signal(how)
        assert report.wait(PATIENCE_S) != 0

    def over(worker):
        try:
            return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended between the two questions
            return True

    processes.wait_for(lambda: all(map(over, drawing)))


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
