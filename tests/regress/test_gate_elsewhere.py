"""The gate in somebody else's repository: its optimizer is judged, by the installed bench-apts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clones import ROOT, commit, git
from scratch import edit

from bench_apts.core.errors import UserError
from bench_apts.regress import gate_trainings

OPTIMIZER = '''
import time

import torch

from bench_apts.contract import Backend, Hyperparameter
from bench_apts.optimizers.data_parallel import DataParallelStepper
from helper import RATE


class Stepper(DataParallelStepper):
    def step(self, batch):
        begun = time.thread_time()
        report = super().step(batch)
        # planted
        return report


def build(model, loss, values, world):
    return Stepper(model, loss, world, lambda parameters: torch.optim.SGD(
        parameters, lr=values["lr"]))


backend = Backend(name="mine", summary="SGD of this repository",
                  hyperparameters={"lr": Hyperparameter(RATE, "learning rate")}, build=build)
'''
FASTER = ("--set", "suite.budget.samples=5600", "--offline")


@pytest.fixture
def repository(tmp_path, git_there):
    folder = tmp_path / "theirs"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "mine.py").write_text(OPTIMIZER)
    (folder / "part" / "helper.py").write_text("RATE = 0.2\n")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "first")
    return folder


@pytest.fixture
def git_there(git):
    """Skip where there is no git."""


@pytest.fixture
def check(environment, short_path, repository):
    """Runs ``bench-apts check`` on the repository's optimizer, from the folder that it lies in."""

    def run(*arguments, gpus="1"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bench_apts", "check", "--baseline", "HEAD",
             "--optimizers", "mine.py", "--gpus", gpus, *map(str, arguments)],
            cwd=repository / "part", env=environment | {"TMPDIR": str(short_path)},
            capture_output=True, text=True, check=False, timeout=3000)
        assert not list(short_path.glob("bench-apts-gate-*"))
        assert git(repository, "worktree", "list").count("\n") == 0
        return done

    return run


def test_files_of_each_state_are_taken(repository, tmp_path):
    edit(repository / "part" / "helper.py", "0.2", "0.3")
    here = repository / "part"
    base = gate_trainings.committed_tree(repository, "HEAD", tmp_path / "b", here)
    head = gate_trainings.working_tree(repository, tmp_path / "h", here)
    assert (base.folder / "helper.py").read_text() == "RATE = 0.2\n"
    assert (head.folder / "helper.py").read_text() == "RATE = 0.3\n"
    assert not list(base.folder.parent.glob(".git"))
    assert gate_trainings.suite_path(head, "own.toml@wide") == f"{head.folder}/own.toml@wide"
    assert gate_trainings.suite_path(head, "digits") == "digits"
    (repository / "new").mkdir()
    (repository / "new" / "file").touch()
    with pytest.raises(UserError, match="has no folder new"):
        gate_trainings.committed_tree(repository, "HEAD", tmp_path / "n", repository / "new")


@pytest.mark.slow
def test_a_package_of_each_state_is_installed(repository, tmp_path):
    (repository / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "theirs"\nversion = "1"\n'
        '[project.entry-points."bench_apts.optimizers"]\nmine = "mine:backend"\n'
        '[tool.setuptools]\npackage-dir = {"" = "part"}\npy-modules = ["mine", "helper"]\n')
    commit(repository, "a package")
    edit(repository / "part" / "helper.py", "0.2", "0.3")
    for tree, rate in (
            (gate_trainings.committed_tree(repository, "HEAD", tmp_path / "b"), 0.2),
            (gate_trainings.working_tree(repository, tmp_path / "h"), 0.3)):
        done = subprocess.run(
            [sys.executable, "-c", "from bench_apts.plugins import registry\n"
             "print(registry.optimizer('mine').backend.hyperparameters['lr'].default)"],
            cwd=tree.folder, env=tree.environment(), capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(rate)


@pytest.mark.parametrize(("arguments", "expected"), [
    ((), "name its optimizer"),
    (("--optimizers", "/a/mine.py"), "/a/mine.py is an absolute path"),
    (("--optimizers", "mine.py", "--suite", "/a/b.toml"), "/a/b.toml is an absolute path"),
])
def test_mistakes_end_in_one_line(cli, monkeypatch, repository, arguments, expected):
    monkeypatch.chdir(repository)
    done = cli("check", "--baseline", "HEAD", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert expected in done.err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_planted_all_reduce_is_found(check, repository):
    edit(repository / "part" / "mine.py", "# planted",
         "torch.distributed.all_reduce(torch.zeros(1))")
    done = check(*FASTER, gpus="2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "needs 2 collectives per global batch instead of 1" in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_planted_slowdown_is_found(check, repository):
    edit(repository / "part" / "mine.py", "# planted",
         "end = begun + 1.5 * (time.thread_time() - begun)\n"
         "        while time.thread_time() < end:\n            pass")
    done = check("--set", "suite.budget.samples=56000", "--offline")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"mine on digits at N = 1 takes \d\.\d+ times the (training|CPU) time",
                     done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_planted_loss_of_accuracy_is_found(check, repository, tmp_path):
    edit(repository / "part" / "helper.py", "0.2", "0.02")
    done = check(*FASTER, "--markdown", tmp_path / "summary.md")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ends at a validation accuracy of 0." in done.stdout.splitlines()[-1]
    assert "8 seeds" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_equal_code_passes_by_the_action(environment, repository, short_path):
    """The script of action.yml itself, with a change that alters nothing."""
    (repository / "part" / "helper.py").write_text("RATE = 0.1 + 0.1\n")
    text = (ROOT / "action.yml").read_text()
    script = re.search(r"id: gate\n.*?run: \|\n(.*?)      env:", text, re.DOTALL)[1]
    done = subprocess.run(
        ["bash", "-e", "-c", re.sub("^ {8}", "", script, flags=re.MULTILINE)],
        cwd=repository / "part", capture_output=True, text=True, check=False, timeout=3000,
        env=environment | {
            "TMPDIR": str(short_path), "RUNNER_TEMP": str(short_path), "BASELINE": "HEAD",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GITHUB_STEP_SUMMARY": str(short_path / "summary"),
            "GITHUB_OUTPUT": str(short_path / "output"), "OPTIMIZERS": "mine.py",
            "SUITE": "digits", "GPUS": "1",
            "ARGUMENTS": "--offline --set suite.budget.samples=28000"})
    assert done.returncode == 0, done.stderr
    # On a loaded machine times may be left open, and are never called slower.
    assert (short_path / "output").read_text() in ("code=0\n", "code=2\n")
    summary = (short_path / "summary").read_text()
    assert "bit-identical" in summary
    assert "regression:" not in summary
