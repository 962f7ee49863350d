"""Two states of the code laid out side by side, from real repositories."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clones import ROOT, commit, git

from bench_apts.core.errors import UserError
from bench_apts.regress import gate_trainings


def where(tree, cwd):
    code = ("import importlib.metadata as m; from bench_apts.plugins import registry as r; "
            "import bench_apts.optimizers as o; print(o.__file__); print(m.version('bench-apts'));"
            "print(*r.optimizer_names()); print(r.optimizer_origin('sgd'))")
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=tree.environment(),
                          capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_each_tree_runs_its_own_code(checkout, tmp_path):
    (checkout / "bench_apts" / "added.py").write_text("NEW = True\n")
    (checkout / "optimizers" / "sgd.py").unlink()
    (checkout / "bench_apts" / "build").mkdir()  # which .gitignore names
    (checkout / "bench_apts" / "build" / "ignored.py").write_text("")
    text = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(text.replace(
        'version = "0.1.0"', 'version = "9.9"').replace("\nadam = ", "\nadam2 = "))
    base = gate_trainings.committed_tree(checkout, "HEAD", tmp_path / "b")
    head = gate_trainings.working_tree(checkout, tmp_path / "h")
    commit = git(checkout, "rev-parse", "HEAD")[:10]
    assert base.text == f"{commit} (HEAD)"
    assert head.text == f"{commit} with uncommitted changes"
    # Not even in a checkout, whose folder Python would search first.
    place, version, names, origin = where(base, cwd=checkout)
    assert Path(place) == base.root / "bench_apts" / "optimizers" / "__init__.py"
    assert (version, origin) == ("0.1.0", "built in")
    assert "adam" in names.split()
    assert not (base.root / "bench_apts" / "added.py").exists()
    place, version, names, _ = where(head, cwd=checkout)
    assert Path(place) == head.root / "bench_apts" / "optimizers" / "__init__.py"
    assert version == "9.9"
    assert {"adam2"} <= set(names.split())
    assert "adam" not in names.split()
    assert (head.root / "bench_apts" / "added.py").exists()
    assert not (head.root / "bench_apts" / "build").exists()
    assert not (head.root / "bench_apts" / "optimizers" / "sgd.py").exists()
    assert gate_trainings.suite_path(head, "digits") == str(
        head.root / "bench_apts" / "suites" / "digits.toml"
    )
    assert gate_trainings.suite_path(head, "other.toml") == "other.toml"
    assert git(checkout, "status", "--porcelain", "--", "bench_apts") == "?? bench_apts/added.py"


def test_trees_that_do_not_run(checkout, tmp_path):
    with pytest.raises(UserError, match=r"git rev-parse: .*; give --baseline a revision"):
        gate_trainings.committed_tree(checkout, "nowhere", tmp_path / "1")
    with pytest.raises(UserError, match="git rev-parse"):
        gate_trainings.committed_tree(checkout, "--all", tmp_path / "2")
    (checkout / "suites" / "__init__.py").write_text("import nothing_of_the_kind\n")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError: No module"):
        gate_trainings.working_tree(checkout, tmp_path / "3")
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    with pytest.raises(UserError, match=r"cannot be installed: .*its build backend"):
        gate_trainings.working_tree(checkout, tmp_path / "4")


def test_what_head_lacks_of_base_is_counted(checkout):
    git(checkout, "switch", "--quiet", "--create", "topic")
    commit(checkout, "of the topic")
    assert gate_trainings.missing_commits(checkout, "main") == 0
    git(checkout, "switch", "--quiet", "main")
    assert gate_trainings.missing_commits(checkout, "topic") == 1
    commit(checkout, "of main")
    assert gate_trainings.missing_commits(checkout, "topic") == 1
    with pytest.raises(UserError, match="give --baseline a revision"):
        gate_trainings.missing_commits(checkout, "--all")


def test_no_repository(tmp_path):
    if Path(os.path.commonpath([tmp_path, ROOT])) == ROOT:
        pytest.skip("the temporary folder lies in this repository")
    with pytest.raises(UserError, match=r"git rev-parse: .*not a git repository"):
        gate_trainings.repository_root(tmp_path)
