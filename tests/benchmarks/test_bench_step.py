"""What a training step costs, and what the harness adds to it: `make bench`.

With ``--benchmark-disable`` every benchmark runs once and only has to work.
"""

import pytest
import torch

from bench_apts.contract import Batch, World
from bench_apts.core import store
from bench_apts.core.records import Eval, Traffic
from bench_apts.plugins import registry
from bench_apts.suites import models

SUITES = ("digits", "mnist")
SHAPES = {"digits": (64,), "mnist": (1, 28, 28)}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["sgd", "adam", "apts", "apts-paper", "tr"])
@pytest.mark.parametrize("suite_name", SUITES)
def test_training_step(benchmark, suite_name, name):
    suite = registry.suite(suite_name)
    backend = registry.optimizer(name).backend
    values = backend.configure({})
    size = suite.batch_size
    if backend.batch_size:
        size = backend.batch_size(size, values, 1)
    torch.manual_seed(0)
    model = models.build(suite.model.name, suite.model.options, SHAPES[suite_name], 10)
    # An endless horizon: no schedule ends while steps are repeated.
    world = World(0, 1, torch.device("cpu"), size, 10**12)
    stepper = backend.build(model, torch.nn.functional.cross_entropy, values, world)
    batch = Batch(torch.randn(size, *SHAPES[suite_name]), torch.randint(10, (size,)))
    for _ in range(3):
        stepper.step(batch)
    benchmark.group = f"training step, {suite_name}"
    benchmark.extra_info["samples per minibatch"] = size
    report = benchmark(stepper.step, batch)
    assert report.samples == report.forwards * size


def test_event_append(benchmark, tmp_path):
    """One evaluation's record, flushed and synced to the disk."""
    event = Eval(
        step=100, samples=6400, epoch=5.3, train_s=1.0, wall_s=2.0, cpu_s=1.0, forwards=100,
        backwards=100, peak_memory_bytes=10**8, train_loss=0.5,
        validation={"accuracy": 0.9, "loss": 0.4},
        comm={"train": {"all_reduce": Traffic(100, 2_628_000, 2_628_000.0)}},
        diagnostics={"radius": 0.01})
    path = tmp_path / "trial.jsonl"
    benchmark.group = "records"
    benchmark(store.append, path, event)
    lines = path.read_bytes().splitlines()
    assert len(lines) >= 1
    assert len(set(lines)) == 1
