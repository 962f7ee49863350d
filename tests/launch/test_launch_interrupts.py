"""Signals while a trial starts: the command ends soon, says so, and leaves no process."""

import signal
import subprocess
import sys
import time

import pytest
from warm_processes import WarmPopen

GRACE_S = 2
PATIENCE_S = 60.0
"""Far less than ranks wait for each other, far more than a loaded machine needs."""

ARGUMENTS = ("run", "--gpus", "3", "--optimizers", "adam-default", "--trials", "0", "--seeds", "1",
             "--no-twins", "--offline", "--grace", str(GRACE_S), "--set", "suite.batch_size=63",
             "--set", "suite.budget.samples=100_000_000", "--set", "suite.budget.seconds=3000")

# Sends itself a signal at the given call of a function that starts processes, or in what follows.
STRIKE = """
import os, signal, sys, threading, time
from multiprocessing import forkserver
place, number, after, everyone = (
    sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "True")
del sys.argv[1:5]
owner = {"server": forkserver.ForkServer, "ranks": forkserver}[place]
name = {"server": "ensure_running", "ranks": "connect_to_new_process"}[place]
begun = getattr(owner, name)
lock, calls = threading.Lock(), []

def strike():
    time.sleep(after)
    for _ in range(2 if everyone else 1):  # a group is told twice, as by `timeout -s INT`
        os.kill(0 if everyone else os.getpid(), number)
        time.sleep(0.02)

def struck(*arguments):
    with lock:
        calls.append(1)
        if len(calls) == 2:
            threading.Thread(target=strike, daemon=True).start()
    return begun(*arguments)

setattr(owner, name, struck)
from bench_apts.cli import main
main()
"""


def interrupted(environment, processes, folder, place, number, after, everyone):
    process = WarmPopen(
        [sys.executable, "-c", STRIKE, place, str(int(number)), str(after), str(everyone),
         *ARGUMENTS, "--out", str(folder)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        out, err = process.communicate(timeout=PATIENCE_S + GRACE_S)
        assert process.returncode == 128 + number, err
        assert "Traceback" not in out + err
        assert "interrupted" in (out + err).splitlines()[-1]
        processes.wait_for(lambda: not processes.session(process.pid), 20)
    finally:
        processes.end_session(process.pid)
        process.communicate()


@pytest.mark.parametrize(("place", "number", "after", "everyone"), [
    ("server", signal.SIGINT, 0.0, False),
    ("ranks", signal.SIGINT, 0.0, True),
    ("ranks", signal.SIGINT, 0.03, False),
    ("ranks", signal.SIGTERM, 0.0, True),
])
def test_a_signal_while_processes_start(
        environment, processes, short_path, place, number, after, everyone):
    interrupted(environment, processes, short_path, place, number, after, everyone)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everyone", [True, False])
@pytest.mark.parametrize("after", [k / 100 for k in range(0, 60, 10)])
def test_a_signal_at_any_moment_of_the_start(
        environment, processes, short_path, number, after, everyone):
    interrupted(environment, processes, short_path, "ranks", number, after, everyone)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.5, 1.5, 2.5, 3.5, 5.0, 6.5, 8.0])
def test_a_signal_at_any_moment_of_the_command(
        environment, processes, started, short_path, number, after):
    process = started(*ARGUMENTS, "--out", short_path)
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S + GRACE_S)
    assert process.returncode in (128 + number, -number), out + err  # Python itself may not be up
    processes.wait_for(lambda: not processes.session(process.pid), 20)
