"""``bench-apts calibrate`` from end to end, and what it refuses before any trial."""

import shutil
import tomllib
from pathlib import Path

import pytest

from bench_apts.core import store
from bench_apts.plugins import registry

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "suites"


@pytest.fixture
def problem(tmp_path):
    """A suite of a second's trials, whose target lacks its value."""
    shutil.copy(EXAMPLES / "my_problems.py", tmp_path)
    text = (EXAMPLES / "breast-cancer.toml").read_text()
    text = text[:text.index("value = 0.95")].replace("samples = 6_000", "samples = 1_500")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("every_samples = 600", "every_samples = 500  # thrice"))
    return path


def test_a_target_is_measured_written_and_found_again(cli, problem):
    asked = ("calibrate", problem, "--trials", "2", "--seeds", "2", "--base-seed", "3")
    planned = cli(*asked, "--dry-run")
    assert planned.code == 0, planned.err
    assert "adam N=1: 2 tuning + 2 report trials" in planned.out
    done = cli(*asked, "--write")
    assert done.code == 0, done.err
    records = store.read_trials(Path("results/calibration-breast-cancer"))
    assert len(records) == 8
    assert {(r.trial.label, r.trial.stage) for r in records} == {
        (label, stage) for label in ("sgd", "adam") for stage in ("tune", "report")}
    assert all(r.evals[-1].samples >= 1_500 for r in records)

    finals = {}
    for record in records:
        if record.trial.stage == "report":
            finals.setdefault(record.trial.label, []).append(
                record.evals[-1].validation["accuracy"])
    best = max(finals, key=lambda label: sum(finals[label]))
    text = problem.read_text()
    target = tomllib.loads(text)["target"]
    assert 0.5 < target["value"] <= sum(finals[best]) / 2
    assert target["provenance"]["optimizer"] == best
    assert (target["provenance"]["trials"], target["provenance"]["seeds"]) == (2, 2)
    assert "# thrice" in text
    assert registry.suite(str(problem)).target.value == target["value"]

    again = cli(*asked)
    assert again.out.count("kept from an earlier run") == 8
    assert f"value = {target['value']}" in again.out
    assert problem.read_text() == text


@pytest.mark.parametrize(("arguments", "expected"), [
    (("digit",), "did you mean digits"),
    (("none.toml",), "cannot read suite none.toml"),
    ((".",), "unknown suite"),
    (("digits", "--gpus", "1,2"), "at one world size"),
    (("digits", "--seeds", "1"), "--seeds"),
    (("digits", "--optimizers", "apt"), "unknown optimizer"),
])
def test_mistakes_are_one_line(cli, arguments, expected):
    done = cli("calibrate", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert expected in done.err
    assert not Path("results").exists()


def test_a_suite_of_an_installed_package_is_not_written(cli, monkeypatch):
    folder = registry.suite_path("digits").resolve().parent
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(folder))
    done = cli("calibrate", "digits", "--write")
    assert done.code == 2
    assert "copy" in done.err
