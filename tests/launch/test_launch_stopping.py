"""Stopping in order: ranks agree on their last step, and SIGTERM means what its sender means."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import stopping_ranks
from harness_ranks import run_ranks
from warm_processes import WarmPopen

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.launch.elastic import Launcher
from bench_apts.meters import soundness
from bench_apts.trial.stopping import GracefulStop

RANK = '''
import os, signal, sys, time
from pathlib import Path
from bench_apts.trial import stopping
from bench_apts.trial.stopping import GracefulStop

stopping._PATIENCE_S = float(sys.argv[2])

class Store(dict):
    set = dict.__setitem__
    get = dict.__getitem__
    def check(self, keys): return all(key in self for key in keys)

flag = Path(sys.argv[1])
with GracefulStop(flag, 0, 1, Store()) as stop:
    assert stop.go_on(True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(1)
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    print("ready", flush=True)
    while stop.go_on(True):
        time.sleep(0.01)
print("stopped", flush=True)
'''
TRAINING = ("run", "--gpus", "2", "--optimizers", "adam[lr=0.01]", "--trials", "0", "--seeds",
            "1", "--no-twins", "--offline", "--set", "suite.budget.samples=64_000", "--set",
            "suite.evaluation.every_samples=6_400")


@pytest.mark.parametrize("agree_every", [1, 7])
def test_ranks_stop_after_the_same_step(tmp_path, agree_every):
    steps = run_ranks(stopping_ranks.work, 3, str(tmp_path / "stop"), agree_every)
    assert len(set(steps)) == 1
    assert steps[0] >= 20
    assert steps[0] % agree_every == 0


@pytest.mark.parametrize("asked", [True, False])
def test_sigterm_ends_a_rank_unless_the_command_has_asked_it_to_stop(tmp_path, asked):
    flag = tmp_path / "stop"
    rank = WarmPopen([sys.executable, "-c", RANK, str(flag), "60" if asked else "1"],
                     stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert rank.stdout.readline() == "ready\n"
    rank.send_signal(signal.SIGTERM)
    if asked:  # SLURM's signal may reach the ranks first
        time.sleep(0.1)
        flag.touch()
    out, _ = rank.communicate(timeout=200)
    assert out == ("stopped\n" if asked else "")
    assert rank.returncode == (0 if asked else 128 + signal.SIGTERM)


def test_a_rank_that_is_done_waits_for_no_other(tmp_path):
    """The other rank ended before it could hear of the request, and will never answer."""
    begun, waited = threading.Event(), []

    class Store(dict):
        set = dict.__setitem__

        def check(self, keys):
            begun.set()
            return all(key in self for key in keys)

        def get(self, key):  # where a real one waits for minutes
            waited.append(key)
            return dict.get(self, key, "0")

    flag = tmp_path / "stop"
    with GracefulStop(flag, 0, 2, Store()) as stop:
        assert stop.go_on(True)
        flag.touch()
        assert begun.wait(60)
    assert waited == []


@pytest.mark.parametrize(("name", "says"), [
    ("long" * 30, "leave it 70; set TMPDIR to a shorter one"),
    (os.fsdecode(b"\xff"), "is not valid UTF-8"),
])
def test_a_temporary_folder_that_sockets_or_ranks_cannot_use(monkeypatch, tmp_path, name, says):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(UserError, match=says) as error:
        Launcher([], "cpu")
    assert "the temporary folder" in str(error.value)
    assert list((tmp_path / name).iterdir()) == []


def test_what_killed_commands_leave_is_swept_and_what_living_ones_use_stays(
        monkeypatch, short_path):
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    long_ago = time.time() - 3600
    script = ("from bench_apts.launch.elastic import Launcher; import sys, time; "
              "launcher = Launcher([], 'cpu').__enter__(); print(launcher._logs, flush=True); "
              "time.sleep(600)")
    commands = [WarmPopen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"TMPDIR": str(short_path)}) for _ in range(2)]
    try:
        living, killed = (Path(command.stdout.readline().strip()) for command in commands)
        commands[1].kill()
        commands[1].wait()
        for folder in (living, killed):
            (socket,) = folder.glob("listener-*")
            assert socket.is_socket()
            os.utime(folder, (long_ago, long_ago))
        own = Launcher([], "cpu")
        assert living.is_dir()
        assert not killed.exists()
        own.__exit__(None, None, None)
        left = [path.name for path in short_path.iterdir()]
        assert [name for name in left if not name.startswith("torchinductor_")] == [living.name]
    finally:
        for command in commands:
            command.kill()
            command.communicate(timeout=200)  # its fork server ends once it has imported torch


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_command_that_slurm_ends_goes_on_from_its_checkpoint(
        started, command, processes, tmp_path, whole_group):
    plain = command(*TRAINING, "--out", tmp_path / "a")
    assert plain.returncode == 0, plain.stderr
    arguments = (*TRAINING, "--out", tmp_path / "b")
    folder = tmp_path / "b" / "digits"
    process = started(*arguments)
    processes.wait_for(lambda: (folder / "trials").exists()
                       and any(len(r.evals) > 2 for r in store.read_trials(folder)))
    if whole_group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 143
    assert "interrupted: finished trials are kept in" in out
    assert err == ""
    processes.wait_for(lambda: not processes.session(process.pid))
    (record,) = store.read_trials(folder)
    assert record.end.status == "interrupted"
    assert record.end.reason == "stopped by a signal"
    (written,) = record.checkpoints
    assert not written.skipped
    assert written.samples >= record.evals[-1].samples

    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"goes on from its checkpoint at {written.samples} samples" in again.stdout
    (resumed,), (whole,) = store.read_trials(folder), store.read_trials(tmp_path / "a" / "digits")
    assert resumed.end.final_weights_sha256 == whole.end.final_weights_sha256
    assert resumed.end.test == whole.end.test
    assert [e.validation for e in resumed.evals] == [e.validation for e in whole.evals]
    assert resumed.end.comm["train"] == whole.end.comm["train"]
    assert soundness.check(folder) == (1, [])
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("grace", ["1", "0"])
def test_a_trial_that_does_not_stop_is_killed_when_the_grace_is_over(
        started, processes, plugin, tmp_path, grace):
    path = plugin(on_step=f"self.steps == 8 and (open({str(tmp_path)!r} + f'/rank-{{rank}}', 'w')"
                          ".close(), time.sleep(600))")
    process = started("tune", "--gpus", "2", "--optimizers", path, "--trials", "1", "--offline",
                      "--grace", grace, "--out", tmp_path)
    folder = tmp_path / "digits"
    processes.wait_for(lambda: len(list(tmp_path.glob("rank-*"))) == 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == 143
    processes.wait_for(lambda: not processes.session(process.pid))
    (record,) = store.read_trials(folder)
    assert record.end.status == "interrupted"
    assert record.checkpoints == []
