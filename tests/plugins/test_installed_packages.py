"""Suites and tasks of installed packages: real distributions in a folder of their own."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench_apts.core import store
from bench_apts.plugins import registry

CODE = """
import numpy as np
from torch import nn

from bench_apts.tasks import OutputTask


class Halves(OutputTask):
    \"\"\"Half of the squared error.

    More words.
    \"\"\"

    def __init__(self, factor=0.5):
        self.factor = factor

    def loss(self, output, targets, reduction="mean"):
        losses = self.factor * (output.squeeze(1) - targets).square()
        return losses if reduction == "none" else getattr(losses, reduction)()


class NoTask:
    pass


def data():
    inputs = np.random.default_rng(0).normal(size=(60, 2))
    return (inputs[:40], inputs[:40, 0]), (inputs[40:], inputs[40:, 1])
"""
SUITE = """
name = "{name}"
summary = "numbers of petals"
batch_size = 10
data = {{ source = "flowers.code:data", validation = 10 }}
model = {{ source = "torch.nn:Linear", options = {{ in_features = 2, out_features = 1 }} }}
task = {{ name = "{task}" }}
budget = {{ samples = 40, seconds = 60 }}
evaluation.every_samples = 20
target = {{ metric = "loss", direction = "min", value = 0.1, provenance = \
{{ optimizer = "none", trials = 0, seeds = 0 }} }}
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory, environment):
    """Three distributions as pip leaves them, on the path of commands."""
    site = tmp_path_factory.mktemp("site")

    def install(name, files, entries):
        for path, content in files.items():
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)

    install("flowers", {
        "flowers/__init__.py": "", "flowers/code.py": CODE,
        "flowers/problems/petals.toml": SUITE.format(name="petals", task="halves"),
        "flowers/problems/broken.toml": "name = 3",
        "flowers/more/mnist.toml": SUITE.format(name="mnist", task="regression"),
        "flowers/one.toml": SUITE.format(name="one", task="classification"),
        "flowers/two.toml": "not read",
    }, "[bench_apts.suites]\nflowers = flowers:problems\nmore = flowers:more\n"
       "single = flowers:one.toml\nnone = flowers:missing\n"
       "[bench_apts.tasks]\nhalves = flowers.code:Halves\nnone = flowers.code:NoTask\n"
       "classification = flowers.code:Halves\n")
    install("weeds", {"weeds/__init__.py": "raise RuntimeError('of all things')"},
            "[bench_apts.suites]\nflowers = weeds\n[bench_apts.tasks]\nweed = weeds:Weed\n"
            "[bench_apts.optimizers]\nsgd = weeds:backend\n")

    def run(*arguments, cwd=site):
        return subprocess.run(
            [sys.executable, "-m", "bench_apts", *map(str, arguments)], cwd=cwd, text=True,
            env=environment | {"PYTHONPATH": str(site)}, capture_output=True, check=False)

    return SimpleNamespace(run=run, site=site)


@pytest.fixture
def with_packages(packages, cli, monkeypatch):
    """Runs commands in this process, with the distributions installed."""
    monkeypatch.syspath_prepend(packages.site)
    registry.forget()
    yield cli
    monkeypatch.undo()
    registry.forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "flowers"]:
        del sys.modules[name]


def test_list_shows_what_packages_offer_and_what_is_wrong_with_it(with_packages):
    done = with_packages("list")
    assert (done.code, done.err) == (0, "")
    rows = {}
    for line in done.out.splitlines():
        rows.setdefault(line.split()[0], []).append(line)
    for name, origin, says in (
            ("petals", "flowers", "numbers of petals"),
            ("broken", "flowers", "unavailable"),
            ("mnist", "built in", "by bench-apts and flowers: uninstall one"),
            ("digits", "built in", "handwritten digits"),
            ("flowers", "weeds", "RuntimeError: of all things"),
            ("none", "flowers", "no file or folder"),
            ("sgd", "built in, weeds", "offered twice"),
            ("adam", "built in", "AdamW"),
            ("halves", "flowers", "Half of the squared error."),
            ("weed", "weeds", "of all things"),
            ("classification", "built in, flowers", "offered twice"),
            ("regression", "built in", "Numbers per sample")):
        assert any(origin in row and says in row for row in rows[name]), (name, rows.get(name))
    assert "two" not in rows


def test_a_packages_suite_and_task_are_trained_and_their_source_identifies_trials(packages):
    done = packages.run("tune", "--suite", "petals", "--gpus", "1", "--optimizers", "adam",
                        "--trials", "1", "--offline", "--out", packages.site / "results")
    assert done.returncode == 0, done.stderr
    (record,) = store.read_trials(packages.site / "results" / "petals")
    assert record.end.status in ("hit", "miss")
    assert record.trial.suite.task.name == "halves"

    code = packages.site / "flowers" / "code.py"
    code.write_text(code.read_text() + "\n# changed\n")
    asked = ("from bench_apts.plugins import registry\n"
             "from bench_apts.suites import suite_problem\n"
             "print(suite_problem.resolved(registry.suite('petals'), '').code_sha256)")
    done = subprocess.run([sys.executable, "-c", asked], cwd=packages.site, check=True, text=True,
                          capture_output=True)
    assert len(done.stdout.strip()) == 64
    assert done.stdout.strip() != record.trial.suite.code_sha256


@pytest.mark.parametrize(("suite", "expected"), [
    ("mnist", "by bench-apts and flowers: uninstall one"),
    ("one", "'classification' is offered twice in bench_apts.tasks"),
    ("broken", "key 'name'"),
    ("petal", "Suites of weeds are unavailable"),
    ("task=weed", "task 'weed' of weeds"),
    ("task=none", "no subclass of bench_apts.tasks.Task"),
    ("task=halve", "did you mean halves?"),
])
def test_what_cannot_be_used_is_one_line(with_packages, tmp_path, suite, expected):
    task = suite.partition("=")[2]
    if task:
        (tmp_path / "mine.toml").write_text(SUITE.format(name="mine", task=task))
        suite = "mine.toml"
    done = with_packages("run", "--suite", suite, "--optimizers", "adam", "--gpus", "1",
                         "--dry-run")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert expected in done.err
