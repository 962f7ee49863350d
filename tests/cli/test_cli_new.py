"""``bench-apts new``: what it writes is sound and runs; nothing is overwritten."""

import subprocess
import sys

import pytest


def test_a_new_suite_passes_all_checks(cli, tmp_path):
    made = cli("new", "suite", "my-first")
    assert (made.code, made.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-first.py", "my-first.toml"]
    said = [line.split() for line in made.out.splitlines() if line.startswith("  bench-apts")]
    assert [words[1] for words in said] == ["test", "run"]

    tested = cli(*said[0][1:])
    assert tested.code == 0, tested.err
    *checks, last = tested.out.splitlines()
    assert {line.split()[0] for line in checks} == {"ok"}, tested.out
    assert last == "0 failures, 0 warnings"

    shown = cli(*said[1][1:], "--dry-run")
    assert shown.code == 0, shown.err
    assert "my-first apts N=2" in shown.out


@pytest.mark.slow
def test_a_new_suite_runs(cli, tmp_path):
    assert cli("new", "suite", "my-first").code == 0
    ran = cli("run", "--suite", "my-first.toml", "--gpus", "1", "--optimizers", "sgd",
              "--trials", "0", "--seeds", "1", "--no-twins", "--set", "suite.budget.samples=1600")
    assert ran.code == 0, ran.err
    assert (tmp_path / "results" / "my-first" / "report.html").is_file()


@pytest.mark.slow
def test_a_new_optimizer_passes_all_checks_and_its_test(cli, tmp_path, environment):
    made = cli("new", "optimizer", "my.own-lion")
    assert (made.code, made.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "my.own-lion.py", "test_my.own-lion.py"]
    said = [line.split() for line in made.out.splitlines() if line.startswith("  ")]
    assert [" ".join(words[:3]) for words in said] == [
        "bench-apts test my.own-lion.py", "python -m pytest", "bench-apts run --optimizers"]

    tested = cli(*said[0][1:])
    assert tested.code == 0, tested.err
    *checks, last = tested.out.splitlines()
    assert {line.split()[0] for line in checks} == {"ok"}, tested.out
    assert last == "0 failures, 0 warnings"

    ran = subprocess.run([sys.executable, *said[1][1:], "-p", "no:cacheprovider"], cwd=tmp_path,
                         env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout

    shown = cli(*said[2][1:], "--dry-run")
    assert shown.code == 0, shown.err
    assert "my.own-lion N=2" in shown.out


def test_a_folder_of_its_own(cli, tmp_path):
    made = cli("new", "suite", "other", "--folder", "a place/b")
    assert made.code == 0, made.err
    assert (tmp_path / "a place" / "b" / "other.py").is_file()
    assert "bench-apts test 'a place/b/other.toml'" in made.out


@pytest.mark.parametrize("name", ["other.toml", "other.py"])
def test_nothing_is_overwritten(cli, tmp_path, name):
    (tmp_path / name).write_text("mine")
    made = cli("new", "suite", "other")
    assert (made.code, len(made.err.splitlines())) == (2, 1)
    assert name in made.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("arguments", "expected"), [
    (("suite", "digits"), "built in"), (("suite", "a/b"), "cannot be called"),
    (("suite", ".."), "cannot be called"), (("suite", ""), "cannot be called"),
    (("suite", "x.toml"), "leave out the ending"), (("suite", "a" * 65), "cannot be called"),
    (("optimizer", "adam"), "built in"), (("optimizer", "a[b]"), "an optimizer cannot be called"),
    (("optimizer", "x.py"), "leave out the ending"),
    (("suit", "x"), "suit"), (("suite",), "NAME"),
    (("suite", "x", "--folder", "file"), "file"),
])
def test_mistakes_are_one_line(cli, tmp_path, arguments, expected):
    (tmp_path / "file").write_text("")
    made = cli("new", *arguments)
    assert (made.code, len(made.err.splitlines())) == (2, 1), made.err
    assert expected in made.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
