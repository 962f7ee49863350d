"""Trials side by side: as many as cores carry, each once, and nothing left behind."""

import itertools
import signal
import subprocess
import sys
import tempfile
import threading
import time

import msgspec
import pytest

from bench_apts.core import environment as machine
from bench_apts.core import gpu_devices, store
from bench_apts.study.execution import fitting_jobs, trials_beside
from bench_apts.study.shared_folder import Helper, ProcessorSlots, wait_for_helpers

SMALL = ("--gpus", "1,2", "--optimizers", "sgd,adam", "--trials", "4", "--seeds", "1",
         "--set", "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500",
         "--offline")


@pytest.mark.parametrize(("device", "have", "ranks", "asked", "count"), [
    ("cpu", 8, (1, 2, 4), 3, 3), ("cpu", 8, (2, 4), 9, 4), ("cpu", 2, (4,), 2, 1),
    ("cuda", 8, (1, 2), 9, 8), ("cuda", 8, (4, 8), 3, 2), ("cuda", 1, (1,), 1, 1)])
def test_no_more_trials_than_the_machine_carries(
        monkeypatch, make_study, device, have, ranks, asked, count):
    monkeypatch.setattr(machine, "cores", lambda: have if device == "cpu" else 1)
    monkeypatch.setattr(gpu_devices, "selectors", lambda: [*map(str, range(have))])
    study = msgspec.structs.replace(make_study("sgd", ranks=ranks), device=device)
    found, note = fitting_jobs(asked, study)
    assert found == count
    assert (note == "") == (found == asked)
    if note:
        assert note.startswith(f"--jobs {asked}: {have} ")


def test_a_record_says_how_many_could_run_beside_it(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert [trials_beside(4, "cpu", ranks) for ranks in (1, 2, 4, 8, 16)] == [3, 3, 1, 0, 0]
    monkeypatch.setattr(gpu_devices, "selectors", lambda: [*map(str, range(4))])
    assert [trials_beside(4, "cuda", ranks) for ranks in (1, 2, 4)] == [3, 1, 0]
    assert trials_beside(1, "cpu", 1) == 0


def test_ranks_never_outnumber_processors(tmp_path):
    running, most, done, lock = 0, 0, [], threading.Lock()

    def command(sizes):
        nonlocal running, most
        slots, waiting = ProcessorSlots(tmp_path, "cpu", "0123"), list(sizes)
        while waiting:
            with slots.reserve(waiting[0]) as free:
                if free:
                    with lock:
                        running += min(waiting[0], 4)
                        most = max(most, running)
                    time.sleep(0.01)
                    with lock:
                        running -= min(waiting[0], 4)
                    done.append(waiting.pop(0))
            time.sleep(0.001)

    threads = [threading.Thread(target=command, args=(sizes,))
               for sizes in ((1, 2, 4, 1, 8), (2, 2, 1, 4), (1, 1, 1, 1, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert sorted(done) == sorted((1, 2, 4, 1, 8, 2, 2, 1, 4, 1, 1, 1, 1, 2))
    assert most == 4
    assert running == 0


def test_no_two_trials_share_a_gpu_and_those_that_do_not_suffice_are_given_back(tmp_path):
    one, other = (ProcessorSlots(tmp_path, "cuda", ("GPU-a", "GPU-b", "GPU-c")) for _ in range(2))
    with one.reserve(2) as free:
        assert free == ("GPU-a", "GPU-b")
        with other.reserve(2) as more:
            assert not more
        with other.reserve(1) as more:
            assert more == ("GPU-c",)
    with other.reserve(9) as free:  # more ranks than cores have all to themselves
        assert free
        with one.reserve(1) as more:
            assert not more


def test_a_helper_that_fails_is_quoted():
    def ended(code):
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the helper's own
        return Helper(subprocess.Popen([sys.executable, "-c", code], stderr=errors, text=True,
                                       stdin=subprocess.PIPE), errors)

    words = wait_for_helpers([
        ended("pass"), ended("import sys; sys.exit('first\\nno room')"),
        ended("import sys; sys.exit(3)")])
    assert words == ["helper 2 ended with code 1, so this command did its part: no room",
                     "helper 3 ended with code 3, so this command did its part: it said nothing"]


def test_jobs_are_for_one_machine(cli):
    done = cli("run", "--jobs", "2", "--nodes", "2", "--node-rank", "0", "--rendezvous",
               "localhost:1234", "--gpus", "2")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "--jobs is for one machine" in done.err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(machine.cores() < 2, reason="a single core runs one trial at a time")
@pytest.mark.parametrize("timed", [False, True])
def test_each_trial_runs_once_and_final_trainings_alone_unless_asked(command, tmp_path, timed):
    done = command("run", *SMALL, "--jobs", "2", *["--jobs-timed"] * timed, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "digits"
    records = store.read_trials(folder)
    assert len(records) == 2 * 2 * 4 + 2 * 2 + 2
    assert all(r.finished and r.attempts == 1 for r in records)
    shown = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in shown] == [f"[{i}/22" for i in range(1, 23)]
    assert any("run by another" in line for line in shown)
    most = min(2, machine.cores()) - 1
    for record in records:
        alone = record.trial.stage == "report" and not timed
        assert record.header.environment["beside"] == (
            0 if alone else min(most, machine.cores() // record.trial.ranks - 1))
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Trials side by side" in report
    assert ("final trainings) shared the machine" in report) == timed
    assert store.read_study(folder).command[1] == "run"


@pytest.mark.slow
@pytest.mark.skipif(machine.cores() < 2, reason="a single core runs one trial at a time")
def test_what_failed_beside_a_command_is_tried_again_by_the_next_one_alone(
        command, plugin, tmp_path):
    arguments = ("tune", "--gpus", "1", "--optimizers", plugin(
        on_step="self.steps == 8 and 1 / 0"), "--trials", "4",
                 "--offline", "--jobs", "2", "--out", tmp_path)
    for attempts in (1, 2):
        done = command(*arguments)
        assert done.returncode == 1, done.stderr
        records = store.read_trials(tmp_path / "digits")
        assert [(r.end.status, r.attempts) for r in records] == [("error", attempts)] * 4


@pytest.mark.slow
@pytest.mark.skipif(machine.cores() < 2, reason="a single core runs one trial at a time")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_helpers_end_with_the_command(started, processes, tmp_path, number):
    process = started(
        "tune", "--gpus", "1", "--optimizers", "sgd,adam", "--trials", "2", "--jobs", "2",
        "--set", "suite.budget.samples=100_000_000", "--set", "suite.budget.seconds=3000",
        "--set", "suite.evaluation.every_samples=20_000", "--out", tmp_path)
    trials = tmp_path / "digits" / "trials"

    def evaluated():
        return len([path for path in trials.glob("*.jsonl")
                    if b'"eval"' in path.read_bytes()]) == 2

    processes.wait_for(evaluated)
    process.send_signal(number)
    process.wait(200)
    processes.wait_for(lambda: not processes.session(process.pid))
    if number == signal.SIGTERM:
        assert process.returncode == 143
    records = store.read_trials(tmp_path / "digits")
    ends = [record.end.status for record in records if record.end]
    assert set(ends) <= {"interrupted"}
    if number == signal.SIGTERM:
        assert len(ends) == len(records) == 2
    for one, other in itertools.combinations(records, 2):
        assert one.header.run_id != other.header.run_id
