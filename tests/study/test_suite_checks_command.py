"""``bench-apts test`` as users call it."""

import pytest

SOURCE = """
import numpy as np
import torch
from torch import nn


def data(labels=2, overlap=0, odd=False):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 3))
    targets = (inputs[:, 0] > 0).astype(int) + (labels - 2) * (np.arange(300) % 2)
    inputs[200:200 + overlap] = inputs[:overlap]
    if odd:
        inputs[0, 0] = np.nan
    return (inputs[:200], targets[:200]), (inputs[200:], targets[200:])


class Noisy(nn.Linear):
    def __init__(self, noise):
        super().__init__(3, 2)
        self.noise = noise

    def forward(self, inputs):
        noise = torch.tensor(np.random.default_rng().normal(size=2), dtype=torch.float32)
        return super().forward(inputs) + self.noise * noise


def drawn():
    model = nn.Linear(3, 2)
    nn.init.constant_(model.bias, float(np.random.default_rng().normal()))
    return model
"""
SUITE = """
name = "mine"
summary = "for a test"
batch_size = {batch}
data = {{ source = "mine.py:data", validation = 50, options = {{ {data} }} }}
model = {{ source = "mine.py:{model}", options = {{ {options} }} }}
task.name = "classification"
budget = {{ samples = 1_000, seconds = 60 }}
evaluation.every_samples = 500

[target]
metric = "accuracy"
direction = "max"
{target}
"""


@pytest.fixture
def suite(tmp_path):
    def write(data="", model="Noisy", options="noise = 0.0", batch=20, target=""):
        (tmp_path / "mine.py").write_text(SOURCE)
        (tmp_path / "mine.toml").write_text(SUITE.format(
            data=data, model=model, options=options, batch=batch, target=target))
        return "mine.toml"

    return write


def lines(done):
    """The level of each check that was printed."""
    return {line.split()[1].rstrip(":"): line.split()[0]
            for line in done.out.splitlines()[:-1]}


@pytest.mark.parametrize(("broken", "check", "says"), [
    ({"data": "labels = 3"}, "label", "class 2 occurs and the network has 2 outputs"),
    ({"data": "odd = true"}, "data", "NaN"),
    ({"options": "noise = 'x'"}, "network", "it cannot be run"),
])
def test_what_fails_before_any_trial(cli, suite, broken, check, says):
    done = cli("test", suite(**broken))
    assert (done.code, done.err) == (2, "")
    assert lines(done)[check] == "failed"
    assert says in done.out
    assert "training:" not in done.out


@pytest.mark.parametrize(("broken", "failed"), [
    ({"model": "drawn", "options": "", "data": "overlap = 40"},
     {"overlap", "training", "determinism", "target"}),
    ({"batch": 25, "target": "value = 0.9"}, {"training", "target"}),
])
def test_what_only_trials_can_tell(cli, suite, broken, failed):
    done = cli("test", suite(**broken))
    assert done.code == 2
    found = lines(done)
    assert {check for check, level in found.items() if level == "failed"} == failed, done.out
    assert list(found) == ["data", "overlap", "class", "normalisation", "label", "initial", "loss",
                           "training", "determinism", "evaluation", "target"]


@pytest.mark.parametrize(("name", "expected"), [
    ("none.toml", "cannot read suite none.toml"), ("digit", "did you mean digits"),
    (".", "unknown suite or optimizer"), ("folder.toml", "folder.toml"),
])
def test_what_is_no_suite(cli, tmp_path, name, expected):
    (tmp_path / "folder.toml").mkdir()
    done = cli("test", name)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert expected in done.err
