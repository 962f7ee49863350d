"""Options from a file: TOML, or the study.json of a study, with the command line before both."""

import shutil
from pathlib import Path

import msgspec
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.study import resolve

FILE = """
suite = ["digits", "mnist"]
set = ["suite.budget.samples=1280", "suite.evaluation.every_samples=640"]
optimizers = ["sgd[lr=[0.1,0.2]]", "apts"]
gpus = [1, 2]
trials = 1
seeds = 2
base-seed = 7
twins = false
sampler = "halton"
space = "wide"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    return path


def planned(done):
    assert done.code == 0, done.err
    return [line for line in done.out.splitlines() if "report trials" in line]


def test_a_file_says_what_the_options_say(cli, file):
    options = ("--suite", "digits", "--set", "suite.budget.samples=1280",
               "--set", "suite.evaluation.every_samples=640")
    by_file = planned(cli("run", "--dry-run", "--offline", "--config", file, "--suite", "digits"))
    assert by_file == planned(cli(
        "run", "--dry-run", "--offline", *options, "--gpus", "1,2", "--trials", "1", "--seeds",
        "2", "--base-seed", "7", "--no-twins", "--sampler", "halton", "--space", "wide",
        "--optimizers", "sgd[lr=0.1],sgd[lr=0.2],apts"))
    assert len(by_file) == 6  # the suites of the command line are not added to the file's
    assert "0 tuning + 2 report trials of 1280 samples" in by_file[2]


def test_the_command_line_goes_before_the_file(cli, file):
    lines = planned(cli("run", "--dry-run", "--offline", "--config", file, "--suite", "digits",
                        "--gpus", "1", "--seeds", "1", "--optimizers", "apts"))
    assert len(lines) == 1
    assert "digits apts N=1: 0 tuning + 1 report" in lines[0]


@pytest.mark.parametrize(("line", "expected"), [
    ('optimiser = "sgd"', ["unknown key of ", "bad.toml 'optimiser'; did you mean optimizers"]),
    ("base_seed = 1", ["'base_seed'; did you mean base-seed"]),
    ('config = "study.toml"', ["unknown key of ", "'config'"]),
    ('trials = "many"', ["bad.toml: key 'trials': "]), ("trials = [1, 2]", ["key 'trials': "]),
    ("trials = -1", ["bad.toml: key 'trials': "]), ("trials = true", ["key 'trials': expected"]),
    ('twins = "no"', ["bad.toml: key 'twins': expected true or false, got 'no'"]),
    ('sampler = "best"', ["key 'sampler': 'best' is not one of 'random', 'halton'"]),
    ("gpus = []", ["key 'gpus': expected a text"]), ("out = { a = 1 }", ["key 'out': expected"]),
    ("optimizers = [[1]]", ["key 'optimizers': expected"]),
    ("trials =", ["bad.toml is not valid TOML"]),
])
def test_what_is_wrong_in_a_file_is_said_in_one_line(cli, tmp_path, line, expected):
    (tmp_path / "bad.toml").write_text(line)
    done = cli("run", "--dry-run", "--offline", "--config", tmp_path / "bad.toml")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    for part in expected:
        assert part in done.err


@pytest.mark.parametrize(("name", "expected"), [
    ("none.toml", "cannot read study file none.toml: No such file"),
    ("none.json", "is not a results folder"),
    ("study.yaml", "name a .toml file or the study.json"),
])
def test_what_is_no_study_file_is_said_in_one_line(cli, name, expected):
    done = cli("tune", "--config", name)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert expected in done.err


def test_a_study_starts_another_with_the_trials_of_its_own(cli, finished, undrawn, tmp_path):
    """The trials have the ids of the study's, so that all are found finished in a copy."""
    shutil.copytree(finished.folder, tmp_path / "again" / "digits")
    before = {path.name for path in (tmp_path / "again" / "digits" / "trials").iterdir()}
    done = cli("run", "--config", finished.folder / "study.json", "--offline", "--out", "again")
    assert done.code == 0, done.err
    assert done.out.count("kept from an earlier run") == len(finished.records)
    assert {p.name for p in (tmp_path / "again" / "digits" / "trials").iterdir()} == before
    again, study = (store.read_study(folder).study for folder in (
        tmp_path / "again" / "digits", finished.folder))
    assert again == study


def test_a_study_of_another_starts_smaller(cli, finished):
    (line,) = planned(cli(
        "run", "--dry-run", "--offline", "--config", finished.folder / "study.json", "--gpus", "2",
        "--set", "suite.budget.samples=1000", "--optimizers", "sgd", "--no-twins"))
    assert "digits sgd N=2: 2 tuning + 1 to 2 report trials of 1000 samples" in line


def test_the_example_of_the_documentation_is_a_study(cli):
    example = Path(__file__).parents[2] / "docs" / "examples" / "study.toml"
    lines = planned(cli("run", "--dry-run", "--offline", "--config", example, "--gpus", "1"))
    labels = [line.split()[1] for line in lines]
    assert labels[:3] == ["adam[lr=1e-3]", "adam[lr=3e-3]", "apts"]
    assert "local-sgd" in labels
    assert "diloco" not in labels


SUITE = """
name = "mine"
summary = ""
batch_size = 8
data = { source = "code.py:splits", validation = 10, stream = true, workers = 3 }
model = { source = "code.py:splits" }
budget = { samples = 160, seconds = 60 }
evaluation = { every_samples = 80 }
target = { metric = "accuracy", direction = "max", value = 0.9, provenance = { \
optimizer = "none", trials = 0, seeds = 0 } }
[variant.long]
budget.samples = 320
"""
WORDS = {"overrides": (), "gpus": "1", "optimizers": "sgd", "trials": 2, "seeds": 1,
         "base_seed": 0, "twins": True}


def test_suites_of_files_and_variants_come_from_a_study_too(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("def splits(): pass\n")
    (tmp_path / "mine.toml").write_text(SUITE)
    study, notes = resolve.resolve_study(
        [f"{tmp_path}/mine.toml", "digits@tanh", "text-char"], **WORDS)
    config = tmp_path / "study.json"
    write_json(config, store.StudyFile(study, [], "", {}))
    assert resolve.resolve_study(None, **WORDS, config=config) == (study, notes)
    changed, _ = resolve.resolve_study(None, **WORDS | {"overrides": (
        "suite.budget.samples=80",)}, config=config)
    assert [suite.budget.samples for suite in changed.suites] == [80] * 3
    assert msgspec.structs.replace(changed, suites=study.suites) == study
    with pytest.raises(UserError, match=r"study.json \(after --set suite.x=1\): unknown key"):
        resolve.resolve_study(None, **WORDS | {"overrides": ("suite.x=1",)}, config=config)
    code.write_text("def splits(): return 1\n")
    again, notes = resolve.resolve_study(None, **WORDS, config=config)
    assert again.suites[0].code_sha256 != study.suites[0].code_sha256
    assert [note for note in notes if "suite mine: its code has changed since" in note]
