"""A repository for the gate to look at."""

import shutil

import pytest
from clones import clone


@pytest.fixture
def checkout(tmp_path):
    """A repository with the code as it stands, committed once."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    return clone(tmp_path / "checkout")
