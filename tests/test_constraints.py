"""The constraints file: upper ends of ranges of what pyproject.toml names, and nothing else."""

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()
               if not line.startswith("#")]
UPPER = {canonicalize_name(found.name): found.specifier for found in CONSTRAINTS}


def named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {canonicalize_name(found.name): found.specifier for found in map(Requirement, lines)}


def test_each_dependency_has_an_upper_end_and_none_is_pinned():
    assert set(UPPER) == set(named())
    for specifier in UPPER.values():
        assert [part.operator for part in specifier] == ["<"], specifier


def test_the_lower_end_of_each_dependency_is_allowed():
    for name, specifier in named().items():
        for part in specifier:
            if part.operator == ">=":
                assert UPPER[name].contains(part.version), name


def test_what_is_installed_here_is_within():
    for name, specifier in UPPER.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        assert specifier.contains(Version(found).public, prereleases=True), (name, found)


def commands(*arguments):
    if not shutil.which("make"):
        pytest.skip("no make")
    done = subprocess.run(["make", "--dry-run", "--always-make", *arguments], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_install_within_them(target, monkeypatch):
    monkeypatch.setenv("VERSION", "1.0")  # somebody else's
    code, shown = commands(target, "VENV=environment")
    assert code == 0
    assert re.search(r"sed '' constraints.txt > environment/constraints.txt", shown)
    assert re.search(r"pip install .*--constraint environment/constraints.txt", shown)
    assert "torch==" not in shown


def test_tools_of_another_environment_are_used_and_not_changed():
    code, shown = commands("test", "VENV=environment", "BIN=/elsewhere")
    assert code == 0
    assert "/elsewhere/ruff check" in shown
    assert "/elsewhere/pip" not in shown


def test_another_torch_has_an_environment_of_its_own():
    code, shown = commands("test-torch", "VERSION=2.11")
    assert code == 0
    assert "sed '/^torch/d' constraints.txt > .venv-torch-2.11/constraints.txt" in shown
    assert "'torch==2.11.*'" in shown
    assert "\n.venv-torch-2.11/bin/python -m pytest" in shown
    ignored = subprocess.run(["git", "check-ignore", "--quiet", ".venv-torch-2.11/bin"], cwd=ROOT,
                             check=False)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()
    (oldest,) = [part.version for part in named()["torch"]]
    code, shown = commands("test-oldest")
    assert code == 0
    assert f"'torch=={oldest}.*'" in shown
    code, shown = commands("test-torch")
    assert code == 2
    assert "VERSION" in shown
