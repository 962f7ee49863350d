"""A hanging rank, no more memory, a command that dies beside another: the study goes on."""

import time

import pytest
from fault_commands import Command, union

from bench_apts.core import store
from bench_apts.study import scheduler

SMALL = ("--gpus", "2", "--trials", "0", "--seeds", "1", "--no-twins", "--offline", "--set",
         "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500")


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_in_the_record_and_the_study_goes_on(
        cli, plugin, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "TRIAL_MARGIN_S", 25.0)
    path = plugin(on_step="rank == 1 and self.steps == 20 and time.sleep(3_600)")
    done = cli("run", "--optimizers", f"{path},sgd", *SMALL, "--out", tmp_path, "--set",
               "suite.budget.seconds=0.5")
    assert done.code == 1, done.err
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "digits")}
    assert records["mine"].end.status == "timeout"
    assert "killed after 26 s; rank 0 was in " in records["mine"].end.reason
    assert ", rank 1 in step (mine.py, line " in records["mine"].end.reason
    assert records["mine"].finished, "it would hang again"
    assert records["sgd"].end.status in ("hit", "miss", "timeout")
    assert records["sgd"].end.reason is None
    assert "note: 1 timeout among the trials" in done.out.replace("2 timeout", "1 timeout")


@pytest.mark.slow
def test_a_fork_server_that_is_killed_is_started_again(launch, plugin, tmp_path):
    # The system may take a while to end a large process, and only then tells those it forked.
    path = plugin(on_step="rank == 0 and self.steps == 20 and (os.kill(os.getppid(), "
                          "signal.SIGKILL), time.sleep(600))")
    command = launch("run", "--optimizers", f"sgd,{path},adam", *SMALL, "--out", tmp_path)
    deadline = time.monotonic() + 200
    while not command.servers():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    command.servers()[0].kill()  # while it starts
    code, out, err = command.finish()
    assert code == 1, out + err
    assert "Traceback" not in out + err
    command.assert_gone()
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "digits")}
    assert records["mine"].end.status == "error"
    assert records["adam"].finished
    assert records["sgd"].finished or "fork server ended" in records["sgd"].end.reason


@pytest.mark.slow
@pytest.mark.parametrize(("line", "said"), [
    ("self.steps == 20 and __import__('torch').empty(2**52)", "can't allocate memory"),
    ("self.steps == 20 and bytearray(2**60)", "MemoryError"),
    ("self.steps == 20 and [__import__('resource').setrlimit(9, (2**33, 2**33)), "
     "[bytearray(2**28) for _ in range(99)]]", "MemoryError"),
], ids=["torch", "python", "limit"])
def test_memory_that_runs_out_is_a_record_and_the_study_goes_on(
        launch, plugin, tmp_path, line, said):
    command = launch("run", "--optimizers", f"{plugin(on_step=line)},sgd", *SMALL, "--out",
                     tmp_path)
    code, out, err = command.finish()
    assert code == 1, err
    command.assert_gone()
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "digits")}
    assert records["mine"].end.status == "oom"
    assert said in records["mine"].end.reason
    assert records["sgd"].end.status in ("hit", "miss")
    assert "note: 1 oom among the trials" in out


@pytest.mark.slow
def test_what_a_killed_command_held_is_taken_over_by_the_one_beside_it(
        launch, environment, tmp_path):
    study = ("run", "--optimizers", "sgd,adam,apts", "--gpus", "1,2", "--trials", "1", "--seeds",
             "1", "--no-twins", "--offline", "--shared", "--set",
             "suite.budget.samples=40_000", "--set", "suite.evaluation.every_samples=4_000",
             "--out", tmp_path)
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        place.mkdir()
    first, second = (Command(study, place, environment) for place in places)
    try:
        deadline = time.monotonic() + 200
        while not first.ranks():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first.process.kill()
        assert first.finish()[0] < 0
        first.assert_gone()
        code, _, err = second.finish()
        assert code == 0, err
        second.assert_gone()
    finally:
        first.kill()
        second.kill()
    records = store.read_trials(tmp_path / "digits")
    assert len(records) == 2 * (2 + 3)
    assert all(record.finished for record in records)
    alone = launch(*(word for word in study[:-1] if word != "--shared"), tmp_path / "alone")
    assert alone.finish()[0] == 0
    assert union(tmp_path / "digits") == union(tmp_path / "alone" / "digits")
