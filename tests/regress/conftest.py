"""Repositories for the gate to look at, and a clone in which numbers can be tracked."""

import importlib
import shutil
import sys

import pytest
from clones import ROOT, clone
from scratch import Tracked


@pytest.fixture(scope="session")
def git():
    if not shutil.which("git"):
        pytest.skip("no git")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, cache, git):
    pytest.importorskip("asv")
    pytest.importorskip("pip")
    return Tracked(tmp_path_factory.mktemp("tracked"), cache)


@pytest.fixture(scope="session")
def regressions():
    """Imports a module of the benchmarks, by its name, as asv does."""

    def module(name):
        sys.path.insert(0, str(ROOT / "suites"))
        try:
            return importlib.import_module(f"regressions.{name}")
        finally:
            sys.path.remove(str(ROOT / "suites"))

    return module


@pytest.fixture
def checkout(tmp_path, git):
    """A repository with the code as it stands, committed once."""
    return clone(tmp_path / "checkout")
