"""git asked about real repositories, and what its errors become."""

import shutil

import clones
import pytest

from bench_apts.core import environment
from bench_apts.core.errors import UserError, last_line

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
