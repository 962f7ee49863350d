"""The environment card: complete, plain, fast, and without torch."""

import json
import os
import shutil
import subprocess
import sys

import clones
import pytest

from bench_apts.core import environment, store
from bench_apts.core.errors import UserError, last_line


@pytest.fixture(autouse=True)
def forget():
    environment._commit.cache_clear()
    yield
    environment._commit.cache_clear()


def test_card_is_plain_json_and_complete(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    card = environment.environment_card()
    assert json.loads(json.dumps(card)) == card
    assert set(card) >= {"hostname", "os", "cpu", "cores", "memory_bytes", "gpus", "gpu_driver",
                         "python", "versions", "commit", "dirty", "threads"}
    assert card["cores"] >= 1
    assert card["memory_bytes"] > 2**28
    assert card["versions"]["bench-apts"] != "not installed"
    assert card["threads"]["OMP_NUM_THREADS"] == "3"
    assert card["slurm"] == {"SLURM_JOB_ID": "17"}


def test_no_torch_is_imported():
    code = ("import sys; from bench_apts.core import environment; environment.environment_card(); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_package(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package-here",))
    assert environment.environment_card()["versions"] == {"no-such-package-here": "not installed"}


def checkout(folder, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b.c",
                        "-c", "commit.gpgsign=false", *arguments], check=True, capture_output=True)

    module = folder / "bench_apts" / "core" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(environment, "__file__", str(module))
    return git, module


def test_commit_and_dirty_flag(tmp_path, monkeypatch):
    git, module = checkout(tmp_path, monkeypatch)
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside another repository's hook
    commit, dirty, unknown = environment._commit()
    assert len(commit) == 40
    assert dirty is False
    assert unknown == ""
    environment._commit.cache_clear()
    module.write_text("changed")
    assert environment._commit() == (commit, True, "")


def test_other_repositories_are_not_our_checkout(tmp_path, monkeypatch):
    git, _ = checkout(tmp_path / "venv" / "site-packages", monkeypatch)
    nowhere = None, None, "installed outside a git checkout"
    assert environment._commit() == nowhere
    subprocess.run(["git", "init", tmp_path], check=True, capture_output=True)
    git("add", ".")
    git("commit", "-m", "x")
    environment._commit.cache_clear()
    assert environment._commit() == nowhere


def test_dubious_ownership_is_named_with_its_remedy(tmp_path, monkeypatch):
    git, _ = checkout(tmp_path, monkeypatch)
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    # git's own switch for its tests: every folder counts as somebody else's.
    kept = {**os.environ, "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "HOME": str(tmp_path)}
    monkeypatch.setattr(environment, "git_environment", lambda: kept)
    card = environment.environment_card()
    assert card["commit"] is None
    assert card["dirty"] is None
    assert "dubious ownership" in card["commit_unknown"]
    assert "safe.directory" in card["commit_unknown"]
    assert "\n" not in card["commit_unknown"]


def test_versions_of_what_a_plug_in_requires_are_found_by_module():
    found = environment.versions(["schedulefree", "yaml", "no_such_module"])
    assert found["no_such_module"] == "not installed"
    assert found["schedulefree"][0].isdigit()
    assert found["yaml"][0].isdigit()  # of the distribution PyYAML


@pytest.mark.parametrize(("name", "key"), [
    ("OMP_DYNAMIC", "threads"), ("OMP_PLACES", "binding"), ("KMP_AFFINITY", "binding"),
    ("NVIDIA_TF32_OVERRIDE", "switches")])
def test_variables_that_bear_on_times_are_in_the_card(monkeypatch, name, key):
    assert name not in environment.environment_card()[key]
    monkeypatch.setenv(name, "1")
    assert environment.environment_card()[key][name] == "1"


def test_records_hold_the_versions_of_what_their_plug_in_requires(cli, plugin, tmp_path):
    path = plugin(options='requires=("schedulefree",),')
    done = cli("run", "--gpus", "1", "--trials", "0", "--seeds", "1", "--no-twins", "--offline",
               "--set", "suite.budget.samples=640", "--set", "suite.evaluation.every_samples=640",
               "--optimizers", f"{path},sgd", "--out", tmp_path / "results")
    assert done.code == 0, done.err
    found = {record.trial.label: record.header.environment
             for record in store.read_trials(tmp_path / "results" / "digits")}
    assert "requires" not in found.pop("sgd")
    (card,) = found.values()
    assert card["requires"] == environment.versions(["schedulefree"])


pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


@pytest.fixture
def top(tmp_path):
    clones.git(tmp_path, "init", "--quiet")
    clones.commit(tmp_path, "first")
    return tmp_path


def test_what_git_says_without_the_line_break(top):
    assert environment.git_text(top, "log", "--format=%s") == "first"
    assert environment.git_output(top, "log", "--format=%s") == b"first\n"


def test_a_refusal_is_one_line_with_the_remedy(top):
    with pytest.raises(UserError, match=r"^git rev-parse: fatal: .*; see `git log`$"):
        environment.git_output(top, "rev-parse", "--verify", "nowhere", remedy="see `git log`")


def test_a_hooks_variables_do_not_lead_elsewhere(top, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(top / "nowhere"))
    assert environment.git_text(top, "log", "--format=%s") == "first"


def test_without_git(top, monkeypatch):
    monkeypatch.setenv("PATH", str(top))
    with pytest.raises(UserError, match="git is not installed"):
        environment.git_text(top, "log")


def test_the_last_line_of_an_output():
    assert last_line("one\n\nbench-apts: two; see\n\n") == "two; see"
    assert last_line("") == "it said nothing"
