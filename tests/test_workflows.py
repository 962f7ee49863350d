"""The workflows: what actionlint says of them, and that they run what developers run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_actionlint_finds_nothing():
    found = shutil.which("actionlint", path=f"{Path(sys.executable).parent}") or shutil.which(
        "actionlint")
    if not found:
        pytest.skip("no actionlint; `make workflows` installs it")
    done = subprocess.run([found, "-no-color", *map(str, WORKFLOWS)], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_call_make_targets_that_there_are():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {path.stem for path in WORKFLOWS} == {"ci", "regressions", "report"}
    for path in WORKFLOWS:
        commands = re.findall(r"^ *(?:- )?run: (.*)$", path.read_text(), re.MULTILINE)
        assert commands, path
        for command in commands:
            assert re.fullmatch(r"make (\S+)( .*)?", command), command
            assert command.split()[1] in targets, command
