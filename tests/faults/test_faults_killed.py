"""SIGKILL at any moment, of any part: finished trials stay, and the same command completes."""

import os
import random
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from fault_commands import Command, finished, union

from bench_apts.core import store

STUDY = ("run", "--gpus", "2", "--optimizers", "sgd,apts", "--trials", "1", "--seeds", "1",
         "--no-twins", "--offline", "--set", "suite.budget.samples=2000", "--set",
         "suite.evaluation.every_samples=500")
TRIALS = 3
MOMENTS = 50
GROUPS = 5
VICTIMS = ("command", "group", "server", "rank")


@pytest.fixture(scope="module")
def undisturbed(environment, tmp_path_factory):
    """What the study comes to when nothing happens, and how long that takes."""
    place = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    command = Command((*STUDY, "--out", place), place, environment)
    code, _, err = command.finish()
    seconds = time.monotonic() - began
    assert code == 0, err
    command.assert_gone()
    found = union(place / "digits")
    assert len(found) == TRIALS
    return found, seconds


def strike(command, victim):
    """Kills a part of a running command; returns whether there was such a part."""
    if victim == "group":
        command.strike()
        return True
    if victim == "command":
        command.process.kill()
        return True
    found = command.ranks() if victim == "rank" else command.servers()
    if not found:
        return False
    try:
        found[-1].kill()
    except psutil.NoSuchProcess:
        return False
    return True


def survive(launch, out, victim, moment):
    """Runs the study until a moment, kills a part of it as soon as there is one, and checks.

    Returns:
        Whether the part was there to be killed.
    """
    folder = out / "digits"
    before = finished(folder)
    command = launch(*STUDY, "--out", out)
    ports, struck = set(), False
    with suppress(subprocess.TimeoutExpired):
        command.process.wait(moment)
    while not struck and command.process.poll() is None:  # no such part yet, or no longer
        ports, struck = command.listening(), strike(command, victim)
        time.sleep(0.02)
    code, shown, err = command.finish()
    command.assert_gone(ports, tracked=not (struck and victim == "group"))
    assert "Traceback" not in shown + err
    assert "corrupt" not in err
    if victim in ("rank", "server") or not struck:
        # The trial that was struck may be the only one of its optimizer.
        assert code == 0 or (struck and code == 1 and "ran to an end" in err), (code, shown, err)
    after = finished(folder)
    for name, content in before.items():
        assert after[name] == content, "a finished trial was written to"
    # What was shown as finished is on the disk: an event is synchronised before it is shown.
    ended = sum(f": {status}" in line for line in shown.splitlines() if line.startswith("[")
               for status in ("hit", "miss"))
    assert len(after) >= ended
    assert not list(folder.glob("trials/.*"))
    for record in store.read_trials(folder) if folder.exists() else []:
        assert not record.torn or not record.finished
    return struck


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("group", range(GROUPS))
def test_a_study_survives_being_killed_at_random_moments(launch, tmp_path, undisturbed, group):
    expected, seconds = undisturbed
    chance = random.Random(group)
    number = MOMENTS // GROUPS
    # One moment in each part of the run, from start-up to the report, in any order.
    moments = [(part + chance.random()) / number * seconds for part in range(number)]
    chance.shuffle(moments)
    struck = place = lives = 0
    for round_, moment in enumerate(moments):
        out = tmp_path / str(place)
        out.mkdir(exist_ok=True)
        hit = survive(launch, out, VICTIMS[(round_ + group) % len(VICTIMS)], moment)
        struck, lives = struck + hit, lives + hit
        if not hit or lives == 3:  # begun anew, or there were no trials left to be struck in
            place, lives = place + 1, 0
    assert struck >= number // 2
    for left in (tmp_path / "tmp").iterdir():
        os.utime(left, (0, 0))  # the sweep leaves folders of the last minute alone
    for out in tmp_path.glob("[0-9]"):
        command = launch(*STUDY, "--out", out)
        code, _, err = command.finish()
        assert code == 0, err
        command.assert_gone()
        assert union(out / "digits") == expected
        assert (out / "digits" / "report.html").exists()
        assert command.temporary_left() == []
