"""Tests of NAME.py for pytest: all that `bench-apts test` checks, and a step done by hand."""

from pathlib import Path

import pytest
import torch

from bench_apts.contract import Batch, World
from bench_apts.plugins import registry
from bench_apts.study.optimizer_examination import examine_alone

FILE = str(Path(__file__).with_name("NAME.py"))


def test_it_keeps_the_contract() -> None:
    """Trains small networks on 1, 2 and 3 ranks."""
    failed = [str(finding) for finding in examine_alone(FILE) if finding.level == "failed"]
    assert not failed, "\n".join(failed)


def test_a_step_is_the_one_worked_out_by_hand() -> None:
    """The gradient of the loss (2·3 − 0)² is 36: a step of length lr downwards."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    backend = registry.optimizer(FILE).backend
    world = World(rank=0, size=1, device=torch.device("cpu"), batch_size=1, budget_samples=100)
    values = backend.configure({"lr": 0.5})
    stepper = backend.build(model, torch.nn.functional.mse_loss, values, world)
    report = stepper.step(Batch(torch.tensor([[3.0]]), torch.tensor([[0.0]])))
    assert float(report.loss) == pytest.approx(36)
    assert model.weight.item() == pytest.approx(1.5)
